from __future__ import annotations

import pytest

from benchmarks import oracles
from pipeline.vision.matching.oracle import Counts, Score
from pipeline.vision.sam import oracle as sam
from stages.settings import PretrainGroundingSettings, PretrainSamSettings

FOUND = [
    sam.ObjectScore("house", 40, 0.9),
    sam.ObjectScore("tree", 40, 0.3),
    sam.ObjectScore("house", 200, 0.7),
    sam.ObjectScore("road", 900, 0.5),
]
TABLES = oracles.Tables(
    recall=sam.report(FOUND),
    masks=12.5,
    matchers={
        "learned": Score(Counts(9, 10, 12), Counts(1, 2, 4), Counts(3, 3, 3)),
        "nearest": Score(Counts(1, 10, 12), Counts(1, 4, 4), Counts(1, 3, 3)),
    },
    precision={"building": 0.75, "road": 0.5},
    land={"open": 0.8, "water": 0.4},
)


def test_figures_are_those_of_the_tables() -> None:
    figures = oracles.figures(TABLES)
    assert figures["mask_recall"] == 0.75
    assert figures["mask_recall_30"] == 0.5
    assert (figures["matches_precision"], figures["matches_recall"]) == (0.9, 0.75)
    assert (figures["u1_precision"], figures["u1_recall"]) == (0.5, 0.25)
    assert (figures["u2_precision"], figures["u2_recall"]) == (1.0, 1.0)
    assert (figures["ap50_mean"], figures["ap50_least"]) == (0.625, 0.5)
    assert figures["map_miou"] == pytest.approx(0.6)
    assert set(oracles.BARS) <= set(figures)


def test_tables_name_rows_and_their_size() -> None:
    recall = oracles._recall_table(TABLES.recall).splitlines()
    assert recall[2] == "| all, 30 px and more | 4 | 0.750 | 0.600 |"
    assert any(line.startswith("| road | 1 |") for line in recall)
    assert oracles._row_table("AP50", TABLES.precision).splitlines()[-1] == "| | 0.750 | 0.500 | 0.625 |"
    sizes = oracles._size_table({96: (TABLES.recall, 30.25, 120.4)}).splitlines()
    assert sizes[-1] == "| 96 px | 0.750 | 0.600 | 30.2 | 120 |"


def test_a_trial_is_of_a_world_that_no_default_is_made_of() -> None:
    from stages.profiles import profile_sections
    from stages.settings import PretrainMatcherSettings

    seeds = {profile_sections("synthetic", None)["prepare"].world.seed, PretrainMatcherSettings().world.seed}
    seeds |= {PretrainSamSettings().world.seed, PretrainGroundingSettings().world.seed}
    assert len(seeds | {oracles._SEED}) == 5
