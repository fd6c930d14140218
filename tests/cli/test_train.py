from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.worlds import world

pytestmark = pytest.mark.usefixtures("one_thread")


def test_overfit_learns_some_pairs_beside_the_models(project: Path, prepared: Path, scenes: Path) -> None:
    settings = world.train_settings(epochs=1).model_dump(mode="json")
    Path("params.yaml").write_text(json.dumps({"train": settings, "engine": {"device": "cpu"}}))
    inputs = ["--prepared", str(prepared), "--cache", f"scenes={scenes}"]
    found = CliRunner().invoke(app, ["train", *inputs, "--overfit", "2"])
    assert found.exit_code == 0, found.output
    assert "artifacts/models/baseline-overfit" in found.output
    assert [path.name for path in Path("artifacts/models").iterdir()] == ["baseline-overfit"]
    history = json.loads(Path("artifacts/models/baseline-overfit/seed-1/history.json").read_text())
    assert history["pairs"] == {"train": 2, "validation": 2}


def test_overfit_of_nothing_is_refused(project: Path) -> None:
    assert CliRunner().invoke(app, ["train", "--overfit", "0"]).exit_code == 2
