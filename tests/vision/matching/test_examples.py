from __future__ import annotations

import numpy as np

from pipeline.vision.matching.examples import counterparts
from pipeline.vision.matching.oracle import Gold

SURVIVES, GONE, NEW = 3, 4, 5


def gold(before: list[int], after: list[int]) -> Gold:
    return Gold(np.array(before), np.array(after), frozenset([SURVIVES, 6]), frozenset([GONE]), frozenset([NEW]))


def bars(*columns: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(columns), 4, 20), dtype=np.bool_)
    for mask, (start, stop) in zip(masks, columns, strict=True):
        mask[:, start:stop] = True
    return masks


def test_an_object_is_itself_and_what_came_is_nothing_that_went() -> None:
    before, after = bars((0, 4), (8, 12)), bars((8, 12), (1, 3))
    found = counterparts(before, after, gold([SURVIVES, GONE], [NEW, SURVIVES]), np.zeros((4, 20), dtype=np.bool_))
    assert found.tolist() == [1, -1]


def test_of_several_regions_of_one_object_those_that_overlap_best_belong_together() -> None:
    before, after = bars((0, 4), (0, 6)), bars((0, 5), (0, 6), (0, 4))
    found = counterparts(before, after, gold([SURVIVES] * 2, [SURVIVES] * 3), np.zeros((4, 20), dtype=np.bool_))
    assert found.tolist() == [2, 1]


def test_ground_is_the_same_where_it_overlaps_and_has_not_changed() -> None:
    masks = bars((0, 4), (6, 10), (12, 16))
    change = np.zeros((4, 20), dtype=np.bool_)
    change[:, 8:10] = True
    moved = bars((1, 5), (6, 10), (15, 19))
    assert counterparts(masks, moved, gold([0] * 3, [0] * 3), change).tolist() == [0, -1, -1]


def test_two_objects_are_never_one() -> None:
    masks = bars((0, 4))
    unchanged = np.zeros((4, 20), dtype=np.bool_)
    assert counterparts(masks, masks, gold([SURVIVES], [6]), unchanged).tolist() == [-1]
    assert counterparts(masks, masks, gold([SURVIVES], [0]), unchanged).tolist() == [0]
    assert counterparts(masks[:0], masks, gold([], [6]), unchanged).tolist() == []
