"""`sagecc masks`, killed at random moments and finished, packs the same bytes as an unbroken run."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.settings import MasksSettings
from tests.stages.kills import check_kills
from tests.worlds.mask_data import THRESHOLDS, lively_weights
from tests.worlds.region_data import write_pairs


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("engine", "pairs", "moments"), [("inline", 80, 4), ("local", 100, 2)])
def test_kills_leave_no_trace_in_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, pairs: int, moments: int
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared = write_pairs(tmp_path, [(64, 64)] * pairs)
    settings = MasksSettings(sam=lively_weights(tmp_path), generator=THRESHOLDS)
    check_kills(tmp_path, "masks", settings, {"prepared": prepared}, engine=engine, moments=moments)
