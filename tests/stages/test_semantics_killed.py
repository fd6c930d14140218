"""`sagecc semantics`, killed at random moments and finished, packs the same bytes as an unbroken run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.kills import check_kills
from tests.worlds.semantic_data import make


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("engine", "pairs", "moments"), [("inline", 80, 5), ("local", 120, 3)])
def test_kills_leave_no_trace_in_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, pairs: int, moments: int
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared, settings = make(tmp_path, [(64, 64)] * pairs, batch_size=8)
    check_kills(tmp_path, "semantics", settings, {"prepared": prepared}, engine=engine, moments=moments)
