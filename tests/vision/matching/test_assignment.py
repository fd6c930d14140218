from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.vision.matching.assignment import assign
from pipeline.vision.matching.cache import pair_arrays
from pipeline.vision.matching.settings import AssignmentSettings

PAPER, RELEASE = AssignmentSettings(), AssignmentSettings(unmatched="release")
TABLE = np.array(
    [
        [0.90, 0.05, 0.00, 0.00],
        [0.30, 0.10, 0.00, 0.00],  # above τ, but region 0 after has a better one
        [0.00, 0.20, 0.10, 0.00],  # not above τ
        [0.00, 0.00, 0.25, 0.35],
    ]
)


def test_matches_are_mutual_and_above_the_threshold() -> None:
    found = assign(TABLE, PAPER)
    assert found.matched.tolist() == [[0, 0], [3, 3]]
    assert found.confidence.tolist() == pytest.approx([0.9, 0.35])
    assert (found.matched.dtype, found.confidence.dtype) == (np.int32, np.float32)


def test_the_paper_and_the_release_differ_in_who_is_unmatched() -> None:
    paper, release = assign(TABLE, PAPER), assign(TABLE, RELEASE)
    assert (paper.unmatched_before.tolist(), paper.unmatched_after.tolist()) == ([2], [1])
    assert (release.unmatched_before.tolist(), release.unmatched_after.tolist()) == ([1, 2], [1, 2])


@pytest.mark.parametrize("settings", [PAPER, RELEASE, AssignmentSettings(threshold=0.5)])
def test_against_plain_loops(settings: AssignmentSettings) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        table = rng.random((int(rng.integers(1, 7)), int(rng.integers(1, 7)))) ** 3
        matched = []
        for p, row in enumerate(table):
            for q, value in enumerate(row):
                if value > settings.threshold and value == row.max() and value == table[:, q].max():
                    matched.append([p, q])
        above = table > settings.threshold
        if settings.unmatched == "paper":
            gone = [p for p in range(table.shape[0]) if not above[p].any()]
            new = [q for q in range(table.shape[1]) if not above[:, q].any()]
        else:
            gone = [p for p in range(table.shape[0]) if p not in [m[0] for m in matched]]
            new = [q for q in range(table.shape[1]) if q not in [m[1] for m in matched]]
        found = assign(table, settings)
        assert found.matched.tolist() == matched
        assert (found.unmatched_before.tolist(), found.unmatched_after.tolist()) == (gone, new)


@pytest.mark.parametrize("settings", [PAPER, RELEASE])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_a_date_without_regions_leaves_all_others_unmatched(
    shape: tuple[int, int], settings: AssignmentSettings
) -> None:
    found = assign(np.zeros(shape), settings)
    assert found.matched.shape == (0, 2)
    assert found.unmatched_before.tolist() == list(range(shape[0]))
    assert found.unmatched_after.tolist() == list(range(shape[1]))


def test_of_equal_confidences_the_first_matches_and_none_matches_twice() -> None:
    found = assign(np.full((3, 2), 0.5), RELEASE)
    assert found.matched.tolist() == [[0, 0]]


def test_matches_are_decided_on_what_is_stored() -> None:
    # In float16 both are 0.2 and a little less than τ.
    table: NDArray[np.float32] = np.array([[0.200005, 0.20001]], dtype=np.float32)
    arrays = pair_arrays(table, PAPER)
    assert arrays["confidences"].dtype == np.float16
    assert len(arrays["matched"]) == 0
    assert arrays["unmatched_before"].tolist() == [0]
    assert arrays["counts"].tolist() == [1, 2]
