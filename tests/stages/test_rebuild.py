"""What an edit of the code computes again and what not, on a copy of the source that the keys are made from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import code
from pipeline.captioners.settings import GenerationSettings
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from stages import scenes, train
from stages.code import CODE
from stages.settings import ScenesSettings
from tests.stages.scene_data import make_data
from tests.training import world

Edit = Callable[[str, str, str], None]
COMMENT = "# a comment that says nothing new\n"


@pytest.fixture
def edit(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """Edit a file of a copy of the project's source, from which digests are then taken."""
    root = tmp_path_factory.mktemp("source")
    for package in code.PACKAGES:
        shutil.copytree(code.ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", root)
    code.forget()

    def edit(file: str, old: str, new: str) -> None:
        text = (root / file).read_text(encoding="utf-8")
        assert text.count(old) >= 1, f"{file} holds no {old!r}"
        (root / file).write_text(text.replace(old, new, 1), encoding="utf-8")
        code.forget()

    yield edit
    monkeypatch.undo()
    code.forget()


@pytest.fixture
def training(
    project: Path, prepared: Path, engine: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], int]:
    """Run the stage `train` on six tiny pairs; returns how many seeds were trained."""
    paths = Paths.under(project).at(prepared=prepared, scenes=world.write_scenes(project / "scenes.h5", prepared))
    trained: list[int] = []
    real = train.train_seeds
    monkeypatch.setattr(train, "train_seeds", lambda job, ranks: trained.extend(job.seeds) or real(job, ranks))

    def run() -> int:
        trained.clear()
        # DVC empties the outputs of a stage before it runs.
        shutil.rmtree(paths.models, ignore_errors=True)
        train.run(world.train_settings(epochs=1), paths, engine=engine)
        assert (paths.models / "seed-1" / "model.safetensors").is_file()
        return len(trained)

    return run


def test_an_edited_line_of_the_decoder_trains_again(training: Callable[[], int], edit: Edit) -> None:
    assert training() == 1
    assert training() == 0
    edit("pipeline/captioners/decoder.py", "math.sqrt(self.width)", "math.sqrt(self.width) * 1.0")
    assert training() == 1
    assert training() == 0


@pytest.mark.parametrize("file", ["captioners/decoder.py", "training/loop.py", "files.py", "datasets/records.py"])
def test_an_edited_comment_or_docstring_does_not(training: Callable[[], int], edit: Edit, file: str) -> None:
    assert training() == 1
    edit(f"pipeline/{file}", "from __future__", f"{COMMENT}from __future__")
    edit(f"pipeline/{file}", '"""', '"""Reworded. ')
    assert training() == 0


def test_an_edit_of_the_inspection_of_caches_makes_nothing_stale(training: Callable[[], int], edit: Edit) -> None:
    assert training() == 1
    edit("pipeline/cache/inspect.py", "def render(", "def unused() -> None: ...\n\n\ndef render(")
    assert training() == 0
    assert not any("pipeline/cache/inspect.py" in files for files in CODE.values())


def test_another_captioner_in_the_registry_trains_no_other_again(training: Callable[[], int], edit: Edit) -> None:
    assert training() == 1
    edit(
        "pipeline/captioners/registry.py",
        "CAPTIONERS.register(",
        'CAPTIONERS.register("x", "a:B")\nCAPTIONERS.register(',
    )
    assert training() == 0


def test_an_edited_line_of_a_worker_computes_its_cache_again(
    tmp_path: Path, edit: Edit, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, settings = make_data(tmp_path, 3)
    paths = Paths.under(tmp_path).at(prepared=folder)

    def computed(settings: ScenesSettings = settings) -> bool:
        paths.scenes.unlink(missing_ok=True)
        capfd.readouterr()
        scenes.run(settings, paths, engine=EngineSettings(device="cpu"))
        return "nothing to do" not in capfd.readouterr().err

    assert computed()
    assert not computed()
    edit("pipeline/vision/scenes/worker.py", "from __future__", f"{COMMENT}from __future__")
    assert not computed()
    edit("pipeline/vision/scenes/worker.py", "\nclass SceneWorker", "\n_TWICE = 2\n\n\nclass SceneWorker")
    assert computed()
    assert not computed()


def test_the_edits_are_of_code_that_the_stages_run() -> None:
    assert "pipeline/captioners/decoder.py" in CODE["train"] and "pipeline/captioners/decoder.py" in CODE["caption"]
    assert "pipeline/vision/scenes/worker.py" in CODE["scenes"]
    assert GenerationSettings.__module__.replace(".", "/") + ".py" in CODE["caption"]
