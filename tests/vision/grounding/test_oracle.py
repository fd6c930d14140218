from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.datasets.world.settings import LAND_CLASSES
from pipeline.vision.grounding.oracle import (
    LAND_COVER,
    PredictedBoxes,
    TrueBoxes,
    average_precision,
    box_iou,
    class_iou,
    predicted_land_cover,
    world_land_cover,
)
from pipeline.vision.grounding.settings import GroundingSettings, parse_prompts


def test_open_ground_is_one_class_and_the_rest_keep_their_names() -> None:
    cover = world_land_cover(np.arange(len(LAND_CLASSES)))
    named = dict(zip(LAND_CLASSES, (LAND_COVER[value] for value in cover), strict=True))
    assert named.pop("bareland") == named.pop("grassland") == "open ground"
    assert all(land == name for name, land in named.items())


def test_default_prompts_are_the_worlds_land() -> None:
    categories = parse_prompts(GroundingSettings().prompts)
    cover = predicted_land_cover(np.arange(len(categories) + 1), categories)
    assert [LAND_COVER[value] for value in cover] == [
        "open ground", "building", "road", "tree", "water", "pavement", "playground",
    ]  # fmt: skip


def test_a_category_that_names_no_object_is_open_ground() -> None:
    assert predicted_land_cover(np.array([[1, 2]]), parse_prompts(["bareland", "quay"])).tolist() == [[0, 0]]


def predicted(*rows: tuple[float, float, float, float, float]) -> PredictedBoxes:
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return PredictedBoxes(table[:, :4], table[:, 4])


def true(*boxes: tuple[float, float, float, float], ignored: tuple[bool, ...] | None = None) -> TrueBoxes:
    flags = np.zeros(len(boxes), dtype=bool) if ignored is None else np.array(ignored)
    return TrueBoxes(np.array(boxes, dtype=np.float64).reshape(-1, 4), flags)


A, B, C, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (80, 80, 90, 90)


def test_box_iou_by_hand() -> None:
    overlaps = box_iou(np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]]))
    np.testing.assert_allclose(overlaps, [[1, 50 / 150, 0]])
    assert box_iou(np.zeros((0, 4)), np.zeros((2, 4))).shape == (0, 2)


def test_all_found_is_one_and_nothing_found_is_zero() -> None:
    assert average_precision([predicted((*A, 0.9), (*B, 0.5))], [true(A, B)]) == 1.0
    assert average_precision([predicted()], [true(A)]) == 0.0
    assert average_precision([predicted((*FAR, 0.9))], [true(A)]) == 0.0
    assert math.isnan(average_precision([predicted((*A, 0.9))], [true()]))


def test_a_false_alarm_before_a_hit_halves_precision() -> None:
    assert average_precision([predicted((*FAR, 0.9), (*A, 0.8))], [true(A)]) == pytest.approx(0.5)
    assert average_precision([predicted((*FAR, 0.7), (*A, 0.8))], [true(A)]) == 1.0


def test_the_curve_by_hand() -> None:
    # Right, wrong, right, right of 4 boxes: recall ¼ at precision 1, then ½ and ¾ at 2/3 → 3/4, which is the better.
    boxes = predicted((*A, 0.9), (*FAR, 0.8), (*B, 0.7), (*C, 0.6))
    assert average_precision([boxes], [true(A, B, C, (60, 0, 70, 10))]) == pytest.approx(0.25 * 1 + 0.5 * 0.75)


def test_a_box_is_found_once() -> None:
    assert average_precision([predicted((*A, 0.9), (*A, 0.8), (*B, 0.7))], [true(A, B)]) == pytest.approx(
        0.5 * 1 + 0.5 * 2 / 3
    )


def test_scores_rank_over_all_images() -> None:
    images = [predicted((*A, 0.3)), predicted((*FAR, 0.9))]
    assert average_precision(images, [true(A), true(A)]) == pytest.approx(0.5 * 0.5)


def test_overlap_must_reach_the_threshold() -> None:
    half = (0.0, 0.0, 10.0, 5.0)
    assert average_precision([predicted((*half, 0.9))], [true(A)], iou_threshold=0.5) == 1.0
    assert average_precision([predicted((*half, 0.9))], [true(A)], iou_threshold=0.51) == 0.0


def test_ignored_boxes_are_neither_right_nor_wrong() -> None:
    both = true(A, B, ignored=(False, True))
    assert average_precision([predicted((*B, 0.9), (*A, 0.8))], [both]) == 1.0
    assert average_precision([predicted((*B, 0.9))], [both]) == 0.0
    assert math.isnan(average_precision([predicted((*B, 0.9))], [true(B, ignored=(True,))]))


def test_class_iou_by_hand() -> None:
    true_map = np.array([[0, 0, 1, 1]])
    predicted_map = np.array([[0, 1, 1, 1]])
    np.testing.assert_allclose(class_iou(predicted_map, true_map, 3), [1 / 2, 2 / 3, np.nan])
