"""Every notebook runs from top to bottom on the artifacts of a small world, and is committed without outputs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.datasets.world.settings import WorldSettings
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from stages import masks, matches, prepare, regions, scenes, semantics
from stages.settings import (
    MasksSettings,
    MatchesSettings,
    PrepareSettings,
    RegionsSettings,
    ScenesSettings,
    SemanticsSettings,
)

PROJECT = Path(__file__).parent.parent
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(Paths.under(PROJECT).pretrained, Paths.under(folder).pretrained)
    shutil.copy(PROJECT / "dvc.yaml", folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        engine = EngineSettings(device="cpu", workers=1)
        world = WorldSettings(train=6, val=2, test=2, size=96)
        settings = PrepareSettings(
            dataset="synthetic", root="world", world=world, vocabulary=prepare.VocabularySettings(min_count=1)
        )
        prepare.run(settings, Paths.under(), engine=engine)
        scenes.run(ScenesSettings(batch_size=4), Paths.under(), engine=engine)
        masks.run(MasksSettings(), Paths.under(), engine=engine)
        regions.run(RegionsSettings(), Paths.under(), engine=engine)
        matches.run(MatchesSettings(), Paths.under(), engine=engine)
        semantics.run(SemanticsSettings(), Paths.under(), engine=engine)
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(notebook: Path, project: Path) -> None:
    folder = project / "notebooks"
    folder.mkdir(exist_ok=True)
    shutil.copy(notebook, folder)
    command = [sys.executable, "-m", "pytest", "--nbmake", "-p", "no:cacheprovider", "-q", "--rootdir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "MPLBACKEND": "agg"}
    result = subprocess.run(
        [*command, str(folder / notebook.name)],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_holds_no_outputs(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
