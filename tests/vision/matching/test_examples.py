from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.vision.matching.examples import counterparts_by_object
from pipeline.vision.matching.oracle import GroundTruth

SURVIVES, DISAPPEARED, APPEARED = 3, 4, 5


def truth(before: list[int], after: list[int]) -> GroundTruth:
    return GroundTruth(
        np.array(before), np.array(after), frozenset([SURVIVES, 6]), frozenset([DISAPPEARED]), frozenset([APPEARED])
    )


def bars(*columns: tuple[int, int]) -> NDArray[np.bool_]:
    masks = np.zeros((len(columns), 4, 20), dtype=np.bool_)
    for mask, (start, stop) in zip(masks, columns, strict=True):
        mask[:, start:stop] = True
    return masks


def test_an_object_is_itself_and_what_came_is_nothing_that_went() -> None:
    before, after = bars((0, 4), (8, 12)), bars((8, 12), (1, 3))
    counterpart = counterparts_by_object(
        before, after, truth([SURVIVES, DISAPPEARED], [APPEARED, SURVIVES]), np.zeros((4, 20), dtype=np.bool_)
    )
    assert counterpart.tolist() == [1, -1]


def test_of_several_regions_of_one_object_those_that_overlap_best_belong_together() -> None:
    before, after = bars((0, 4), (0, 6)), bars((0, 5), (0, 6), (0, 4))
    counterpart = counterparts_by_object(
        before, after, truth([SURVIVES] * 2, [SURVIVES] * 3), np.zeros((4, 20), dtype=np.bool_)
    )
    assert counterpart.tolist() == [2, 1]


def test_ground_is_the_same_where_it_overlaps_and_has_not_changed() -> None:
    masks = bars((0, 4), (6, 10), (12, 16))
    change = np.zeros((4, 20), dtype=np.bool_)
    change[:, 8:10] = True
    moved = bars((1, 5), (6, 10), (15, 19))
    assert counterparts_by_object(masks, moved, truth([0] * 3, [0] * 3), change).tolist() == [0, -1, -1]


def test_two_objects_are_never_one() -> None:
    masks = bars((0, 4))
    unchanged = np.zeros((4, 20), dtype=np.bool_)
    assert counterparts_by_object(masks, masks, truth([SURVIVES], [6]), unchanged).tolist() == [-1]
    assert counterparts_by_object(masks, masks, truth([SURVIVES], [0]), unchanged).tolist() == [0]
    assert counterparts_by_object(masks[:0], masks, truth([], [6]), unchanged).tolist() == []
