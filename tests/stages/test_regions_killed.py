"""`sagecc regions`, killed at random moments and finished, packs the same bytes as an unbroken run."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.settings import RegionsSettings
from tests.stages.kills import check_kills
from tests.worlds.region_data import write_masks, write_pairs, write_sam


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("engine", "pairs", "moments"), [("inline", 80, 6), ("local", 120, 4)])
def test_kills_leave_no_trace_in_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, pairs: int, moments: int
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared, sam = write_pairs(tmp_path, [(64, 64)] * pairs), write_sam(tmp_path)
    masks = write_masks(tmp_path / "masks.h5", prepared, sam)
    check_kills(
        tmp_path,
        "regions",
        RegionsSettings(batch_size=8),
        {"prepared": prepared, "masks": masks},
        engine=engine,
        moments=moments,
    )
