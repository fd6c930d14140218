from __future__ import annotations

import numpy as np
import pytest

from pipeline.vision.matching.matcher import Assignment
from pipeline.vision.matching.oracle import Count, Gold, Score, judge, objects_of_regions, table


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


GOLD = Gold(
    #  3 and 5 survive with regions at both dates; 4 survives without one after; 8 has gone; 9 is new.
    before=np.array([3, 4, 5, 8, 0]),
    after=np.array([5, 3, 9, 0]),
    corresponding=frozenset([3, 4, 5]),
    disappeared=frozenset([8, 11]),
    appeared=frozenset([9]),
)


def test_a_perfect_assignment_scores_one() -> None:
    score = judge(GOLD, assignment([[0, 1], [2, 0], [4, 3]], [1, 3], [2]))
    assert score == Score(Count(2, 2, 2), Count(1, 1, 1), Count(1, 1, 1))


def test_mistakes_are_counted() -> None:
    # 8, which has gone, is matched with 9, which is new; 3 is overlooked, 5 is matched with ground.
    score = judge(GOLD, assignment([[3, 2], [2, 3]], [0, 1, 4], [0, 1]))
    assert score.matches == Count(0, 2, 2)
    assert score.disappeared == Count(0, 1, 1)
    assert score.appeared == Count(0, 2, 1)


def test_what_the_masks_decide_is_not_judged() -> None:
    # 4 has no region after: it may be matched with ground or not at all.
    for found in (assignment([[1, 3]], [], []), assignment([], [1], [])):
        score = judge(GOLD, found)
        assert (score.matches.said, score.disappeared.said, score.appeared.said) == (0, 0, 0)


def test_several_masks_of_one_object_stand_for_each_other() -> None:
    gold = Gold(np.array([3, 3, 3]), np.array([3, 3]), frozenset([3]), frozenset(), frozenset())
    # Crosswise is as good as straight, and the third is left over whatever the matcher does.
    score = judge(gold, assignment([[0, 1], [1, 0]], [2], []))
    assert (score.matches, score.disappeared) == (Count(2, 2, 2), Count(0, 0, 0))
    score = judge(gold, assignment([[2, 0]], [0, 1], [1]))
    assert (score.matches, score.disappeared, score.appeared) == (Count(1, 1, 2), Count(0, 1, 0), Count(0, 1, 0))


def test_scores_add_up_and_are_shown() -> None:
    total = Score(Count(8, 10, 16), Count(1, 2, 2), Count(0, 0, 3)) + Score(Count(1, 2, 2), Count(0, 0, 0), Count())
    assert total.matches == Count(9, 12, 18)
    assert (total.matches.precision, total.matches.recall) == (0.75, 0.5)
    assert total.appeared.precision == 1.0
    text = table({"superglue": total, "nearest": Score()})
    assert "| superglue | 0.750 | 0.500 | 0.500 | 0.500 | 1.000 | 0.000 |" in text
    assert "18 matches, 2 disappeared, 3 appeared" in text


@pytest.mark.parametrize("name", ["right", "said", "true"])
def test_counts_start_at_nothing(name: str) -> None:
    assert getattr(Count(), name) == 0
