from __future__ import annotations

import numpy as np
import pytest

from pipeline.vision.matching.matcher import Assignment
from pipeline.vision.matching.oracle import Counts, GroundTruth, Score, objects_of_regions, score_pair, table


def test_regions_are_given_the_object_they_show() -> None:
    instances = np.zeros((10, 10), dtype=np.uint16)
    instances[:4, :4], instances[6:, 6:] = 7, 300
    masks = np.zeros((5, 10, 10), dtype=bool)
    masks[0, :4, :3] = True  # IoU 12/16 with 7
    masks[1, :4, :4] = True  # 7 itself
    masks[2, 6:, 6:8] = True  # 8/16 of 300
    masks[3, 4:6] = True  # ground
    masks[4, :5, :8] = True  # 16/40 of 7
    assert objects_of_regions(masks, instances).tolist() == [7, 7, 300, 0, 0]
    assert objects_of_regions(masks[:0], instances).tolist() == []
    assert objects_of_regions(masks, np.zeros_like(instances)).tolist() == [0] * 5


def assignment(matched: list[list[int]], before: list[int], after: list[int]) -> Assignment:
    return Assignment(
        np.array(matched, dtype=np.int32).reshape(-1, 2),
        np.ones(len(matched), dtype=np.float32),
        np.array(before, dtype=np.int32),
        np.array(after, dtype=np.int32),
    )


TRUTH = GroundTruth(
    #  3 and 5 survive with regions at both dates; 4 survives without one after; 8 disappeared; 9 appeared.
    before=np.array([3, 4, 5, 8, 0]),
    after=np.array([5, 3, 9, 0]),
    corresponding=frozenset([3, 4, 5]),
    disappeared=frozenset([8, 11]),
    appeared=frozenset([9]),
)


def test_a_perfect_assignment_scores_one() -> None:
    score = score_pair(TRUTH, assignment([[0, 1], [2, 0], [4, 3]], [1, 3], [2]))
    assert score == Score(Counts(2, 2, 2), Counts(1, 1, 1), Counts(1, 1, 1))


def test_mistakes_are_counted() -> None:
    # 8, which has gone, is matched with 9, which is new; 3 is overlooked, 5 is matched with ground.
    score = score_pair(TRUTH, assignment([[3, 2], [2, 3]], [0, 1, 4], [0, 1]))
    assert score.matches == Counts(0, 2, 2)
    assert score.disappeared == Counts(0, 1, 1)
    assert score.appeared == Counts(0, 2, 1)


def test_objects_without_a_region_at_one_date_are_not_counted() -> None:
    # 4 has no region after: it may be matched with ground or not at all.
    for either in (assignment([[1, 3]], [], []), assignment([], [1], [])):
        score = score_pair(TRUTH, either)
        assert (score.matches.predicted, score.disappeared.predicted, score.appeared.predicted) == (0, 0, 0)


def test_several_masks_of_one_object_stand_for_each_other() -> None:
    truth = GroundTruth(np.array([3, 3, 3]), np.array([3, 3]), frozenset([3]), frozenset(), frozenset())
    # Crosswise is as good as straight, and the third is left over whatever the matcher does.
    score = score_pair(truth, assignment([[0, 1], [1, 0]], [2], []))
    assert (score.matches, score.disappeared) == (Counts(2, 2, 2), Counts(0, 0, 0))
    score = score_pair(truth, assignment([[2, 0]], [0, 1], [1]))
    assert (score.matches, score.disappeared, score.appeared) == (Counts(1, 1, 2), Counts(0, 1, 0), Counts(0, 1, 0))


def test_scores_add_up_and_are_shown() -> None:
    total = Score(Counts(8, 10, 16), Counts(1, 2, 2), Counts(0, 0, 3)) + Score(
        Counts(1, 2, 2), Counts(0, 0, 0), Counts()
    )
    assert total.matches == Counts(9, 12, 18)
    assert (total.matches.precision, total.matches.recall) == (0.75, 0.5)
    assert total.appeared.precision == 1.0
    text = table({"superglue": total, "nearest": Score()})
    assert "| superglue | 0.750 | 0.500 | 0.500 | 0.500 | 1.000 | 0.000 |" in text
    assert "18 matches, 2 disappeared, 3 appeared" in text


@pytest.mark.parametrize("name", ["tp", "predicted", "actual"])
def test_counts_start_at_nothing(name: str) -> None:
    assert getattr(Counts(), name) == 0
