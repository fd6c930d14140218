"""Reading and writing of weights as data, without executing code: safetensors files and torch state dicts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.checkpoints import missing_advice, shipped
from pipeline.contents import name_text
from pipeline.errors import CheckpointError, OutputError, first_line
from pipeline.files import atomic_path
from pipeline.system_errors import failed_read, number_of, reading

_FETCH = "run `sagecc checkpoints list` to see what can be fetched, or correct the path"


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a flat state dict from `.safetensors`, or from a `.pth`/`.pt` file with `weights_only`.

    A file that holds the state dict under the key `model`, as Grounding DINO's do, is read as that.

    Raises:
        CheckpointError: The file is missing, truncated, or holds anything but a mapping of names to tensors.
        UnreadableError: It cannot be read.
    """
    path = shipped(path)
    if not path.is_file():
        raise CheckpointError("the weights are not there", where=path, fix=missing_advice(path) or _FETCH)
    _check_readable(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    # Damage shows as whatever the unpickler trips over: struct.error, KeyError, MemoryError and a dozen more.
    except Exception as error:
        if failed := failed_read(error, path):
            raise failed from error
        raise CheckpointError(
            f"these weights cannot be read as plain tensors ({first_line(error)})",
            where=path,
            fix="fetch the file again; files that need code to be run are refused",
        ) from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError("not a state dict: expected names of tensors", where=path, fix=_FETCH)
    return state


def load_exactly(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    kind: str,
    path: Path,
    fix: str | None = None,
    same_types: bool = False,
) -> None:
    """Load a state dict into a module whose tensors must have the same names and shapes.

    Args:
        module: The module to load into.
        state: Tensors by name.
        kind: What the weights should be, with its article, for messages: "a mini", "a SAM vit_h".
        path: Their file, for messages.
        fix: What to do about weights of another model, for messages.
        same_types: Whether tensors of another type are refused; otherwise they are converted to the module's.

    Raises:
        CheckpointError: They are another model's.
    """
    expected = module.state_dict()
    unknown, missing = sorted(state.keys() - expected.keys()), sorted(expected.keys() - state.keys())
    different = [
        name
        for name in sorted(state.keys() & expected.keys())
        if state[name].shape != expected[name].shape or (same_types and state[name].dtype != expected[name].dtype)
    ]
    if unknown or missing or different:
        examples = ", ".join([*unknown, *missing, *different][:3])
        raise CheckpointError(
            f"these weights are not {kind}: {len(unknown)} unknown, {len(missing)} missing and {len(different)} "
            f"differently shaped{' or typed' if same_types else ''} tensors (for example {examples})",
            where=path,
            fix=fix,
        )
    module.load_state_dict(dict(state))


# All metadata are one entry, since the library writes several entries in no fixed order.
_META = "sagecc"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> Path:
    """Write tensors and JSON-able metadata `about` to a safetensors file; equal arguments give equal bytes.

    Raises:
        OutputError: The file cannot be written.
    """
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    metadata = None if about is None else {_META: json.dumps(about, allow_nan=False)}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata=metadata)
        except SafetensorError as error:
            # The library's errors carry the operating system's error number in their text, if at all.
            number = number_of(error)
            if number is not None:
                raise OSError(number, os.strerror(number)) from error
            raise OutputError(
                f"cannot write: {error}", where=path, fix="make room on the disk and try again"
            ) from error
    return path


def load_tensors(path: Path, *, fix: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, on the CPU, and the metadata that `save_tensors` wrote.

    Raises:
        CheckpointError: The file is missing, damaged, or not such a file.
        UnreadableError: It cannot be read.
    """
    try:
        _check_readable(path)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            about = json.loads((file.metadata() or {}).get(_META, "{}"))
    except FileNotFoundError as error:
        raise CheckpointError("the weights are not there", where=path, fix=fix) from error
    except (SafetensorError, OSError, ValueError) as error:
        if failed := failed_read(error, path):
            raise failed from error
        raise CheckpointError(f"these weights cannot be read: {error}", where=path, fix=fix) from error
    return tensors, about


def _check_readable(path: Path) -> None:
    """Read the first bytes: safetensors takes every file that it cannot open for one that is not there.

    Raises:
        CheckpointError: They are a text: a pointer, or the page of a server, lies in the place of the weights.
        UnreadableError: They cannot be read.
    """
    with reading(path), path.open("rb") as stream:
        start = stream.read(1024)
    name, fix = name_text(start) or ("", "")
    if fix:
        raise CheckpointError(f"these weights cannot be read as plain tensors (they are {name})", where=path, fix=fix)
