from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.training import run


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    moments = iter(range(0, 100, 5))
    monkeypatch.setattr(run.time, "perf_counter", lambda: float(next(moments)))
    return tmp_path / run.SECONDS


def test_an_interrupted_run_counts_and_the_next_one_adds_to_it(file: Path) -> None:
    with pytest.raises(KeyboardInterrupt), run.timed(file, goes_on=False):
        raise KeyboardInterrupt
    with run.timed(file, goes_on=True):
        pass
    assert run.read_seconds(file) == 10.0
    with run.timed(file, goes_on=False):
        pass
    assert run.read_seconds(file) == 5.0


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"seconds": "long"}), json.dumps({"seconds": None})])
def test_what_is_no_time_is_none(file: Path, content: str) -> None:
    assert run.read_seconds(file) is None
    file.write_text(content)
    assert run.read_seconds(file) is None
