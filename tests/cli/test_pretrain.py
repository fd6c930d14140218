from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from pipeline.errors import SettingsError


def test_masks_without_their_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("engine: {device: cpu}\n")
    command = ["pretrain", "matcher", "--cache", "masks=masks.h5", "--out", "matcher.safetensors"]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, SettingsError) and "go together" in str(result.exception)
    assert not Path("matcher.safetensors").exists()
