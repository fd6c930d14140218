from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from pipeline.files import sha256_file
from tests.execution import squares_stage
from tests.execution.killing import run_and_kill, survive_kills

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_inline_survives_twenty_kills_with_the_same_bytes(tmp_path: Path) -> None:
    expected = sha256_file(squares_stage.run(tmp_path / "whole", seconds=0))
    folder = tmp_path / "killed"
    resumed = []

    def check(moment: float) -> None:
        assert sha256_file(folder / "squares.h5") == expected, f"killed after {moment:.3f} s"
        assert not list(folder.glob(".*.partial"))

    def finish() -> None:
        resumed.append(len(list((folder / ".work").glob("*/*/*.safetensors"))))
        squares_stage.run(folder, seconds=0)

    killed = survive_kills(
        [sys.executable, "-m", "tests.execution.squares_stage", str(folder), "inline"],
        lambda: shutil.rmtree(folder, ignore_errors=True),
        check,
        window=(0.0, 0.5),
        ready="ready",
        finish=finish,
    )
    assert killed >= 5
    assert any(0 < shards < 12 for shards in resumed)


def test_local_engine_survives_kills_with_the_same_bytes(tmp_path: Path) -> None:
    expected = sha256_file(squares_stage.run(tmp_path / "whole", seconds=0))
    folder = tmp_path / "killed"
    for moment in (2.5, 4.0):
        run_and_kill(
            [sys.executable, "-m", "tests.execution.squares_stage", str(folder), "local"], moment, ready="ready"
        )
    assert sha256_file(squares_stage.run(folder, "inline", seconds=0)) == expected
