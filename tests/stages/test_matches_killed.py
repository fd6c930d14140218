"""`sagecc matches`, killed at random moments and finished, packs the same bytes as an unbroken run."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from pipeline.vision.matching.build import learned_matcher
from pipeline.vision.matching.settings import SuperGlueSettings
from stages.settings import MatchesSettings
from tests.stages.kills import check_kills
from tests.vision.matching.region_data import WIDTH, random_pairs, write_regions


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("engine", "pairs", "moments"), [("inline", 1200, 6), ("local", 2400, 4)])
def test_kills_leave_no_trace_in_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, pairs: int, moments: int
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "matcher.safetensors"
    settings = MatchesSettings(weights=str(weights), superglue=SuperGlueSettings(sinkhorn_iterations=50), batch_size=32)
    save_file(learned_matcher(settings, WIDTH).state_dict(), weights)
    counts = [(number % 50, (7 * number) % 50) for number in range(pairs)]
    regions = write_regions(tmp_path / "regions.h5", random_pairs(counts))
    check_kills(tmp_path, "matches", settings, {"regions": regions}, engine=engine, moments=moments)
