"""Edited code makes results anew, edited words do not: the sources are a copy, read in place of the project's own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import code
from pipeline.cache.reader import Cache
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.vision.scenes.worker import SCHEMA, SceneWorker
from stages import scenes
from stages.code import stage_digest
from stages.settings import render_sections
from tests.places import at
from tests.worlds.scene_data import make_data

PACKAGES = ("pipeline", "stages", "cli")
WORKER = "pipeline/vision/scenes/worker.py"

Edit = Callable[[str, str, str], None]


def copy_sources(folder: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(code.ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    sources = copy_sources(tmp_path / "sources")
    monkeypatch.setattr(code, "ROOT", sources)
    code.forget()

    def change(file: str, old: str, new: str) -> None:
        replace(sources / file, old, new)
        code.forget()

    yield change
    code.forget()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Run the stage `scenes` on two pairs; return how many batches it computed."""
    monkeypatch.chdir(tmp_path)
    prepared, settings = make_data(tmp_path, 2, batch_size=2)
    batches = []
    compute = SceneWorker.compute

    def counting(self: SceneWorker, loaded: list[Any]) -> list[dict[str, np.ndarray]]:
        batches.append(len(loaded))
        return compute(self, loaded)

    monkeypatch.setattr(SceneWorker, "compute", counting)

    def run_scenes() -> int:
        batches.clear()
        scenes.run(settings, at(prepared=prepared), engine=EngineSettings(device="cpu"))
        return len(batches)

    return run_scenes


def test_an_edit_of_a_workers_code_computes_again(edit: Edit, run: Callable[[], int]) -> None:
    output = at().scenes
    assert (run(), run()) == (2, 0)
    output.unlink()
    assert run() == 0
    before = sha256_file(output)
    edit(WORKER, "def load(", "LIMIT = 1\n\n    def load(")
    assert run() == 2
    assert sha256_file(output) != before
    with Cache.open(output, SCHEMA) as cache:
        assert cache.provenance.code == stage_digest("scenes", "pipeline.vision.scenes.backbones:mini")


def test_an_edit_of_a_module_that_the_worker_imports_computes_again(edit: Edit, run: Callable[[], int]) -> None:
    assert run() == 2
    edit("pipeline/files.py", "import errno\n", "import errno\nimport math\n")
    assert run() == 2


def test_edits_of_words_compute_nothing(edit: Edit, run: Callable[[], int], capfd: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    capfd.readouterr()
    edit(WORKER, "from __future__ import annotations\n", "from __future__ import annotations\n\n# Another comment.\n")
    assert run() == 0
    assert "is up to date" in capfd.readouterr().err
    at().scenes.unlink()
    assert run() == 0
    assert "nothing to do" in capfd.readouterr().err


def test_an_edit_of_inspection_makes_no_stage_stale(edit: Edit, run: Callable[[], int]) -> None:
    assert run() == 2
    before = {stage: stage_digest(stage) for stage in ("scenes", "regions", "graph", "train", "caption")}
    edit("pipeline/cache/inspect.py", "_SAMPLE = 4 << 20", "_SAMPLE = 5 << 20")
    assert run() == 0
    assert {stage: stage_digest(stage) for stage in before} == before


def test_an_edit_of_the_decoder_concerns_the_training_alone(edit: Edit) -> None:
    stages = ("prepare", "scenes", "masks", "regions", "matches", "semantics", "graph", "evaluate", "train", "caption")

    def digests() -> list[str]:
        return [stage_digest(stage, *captioner[: 1 if stage in ("train", "caption") else 0]) for stage in stages]

    captioner = ("pipeline.captioners.sage_cc:SageCC",)
    before = digests()
    edit(
        "pipeline/captioners/decoder.py",
        "from __future__ import annotations\n",
        "from __future__ import annotations\n\n# x\n",
    )
    assert digests() == before
    edit("pipeline/captioners/decoder.py", "# x\n", "import math as _math\n")
    changed = [stage for stage, old, new in zip(stages, before, digests(), strict=True) if old != new]
    assert changed == ["train", "caption"]


@pytest.mark.long
@pytest.mark.slow
def test_the_command_gives_the_values_of_the_edited_code(tmp_path: Path) -> None:
    sources = copy_sources(tmp_path / "sources")
    prepared, settings = make_data(tmp_path, 2)
    sections = {"scenes": settings, "engine": EngineSettings(device="cpu")}
    (tmp_path / "params.yaml").write_text(render_sections(sections, heading="Test."), encoding="utf-8")
    command = [sys.executable, "-c", "from cli.main import main; main()", "scenes", "--prepared", str(prepared)]
    output = tmp_path / at().scenes

    def features() -> tuple[np.ndarray, str]:
        done = subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(sources)}, capture_output=True, text=True, check=True
        )
        with Cache.open(output, SCHEMA) as cache:
            return cache.rows("features", range(len(cache)))[0], done.stderr

    first, _ = features()
    output.unlink()
    again, told = features()
    assert "nothing to do" in told
    np.testing.assert_array_equal(first, again)
    output.unlink()
    replace(sources / WORKER, '{"features": ', '{"features": 2 * ')
    doubled, told = features()
    assert "nothing to do" not in told
    np.testing.assert_array_equal(doubled, 2 * first)
