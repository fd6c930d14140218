from __future__ import annotations

import numpy as np
import pytest

from pipeline.datasets.world.pair import make_pair
from pipeline.datasets.world.settings import WorldSettings
from pipeline.vision.sam.oracle import Recall, best_ious, mask_quality, report, score_objects


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((20, 30), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def test_ious_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    truths, masks = rng.random((5, 7, 9)) > 0.5, rng.random((4, 7, 9)) > 0.3
    expected = [max((t & m).sum() / (t | m).sum() for m in masks) for t in truths]
    np.testing.assert_allclose(best_ious(truths, masks), expected)


def test_recall_is_zero_without_masks_or_objects() -> None:
    one, none = rectangle(0, 0, 5, 5)[None], np.zeros((0, 20, 30), dtype=bool)
    assert best_ious(one, none).tolist() == [0.0]
    assert best_ious(none, one).shape == (0,)
    assert report([]).whole == Recall(0, 0.0, 0.0)


def test_an_empty_mask_matches_nothing() -> None:
    assert best_ious(np.zeros((1, 4, 4), dtype=bool), np.zeros((1, 4, 4), dtype=bool)).tolist() == [0.0]


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="pixels"):
        best_ious(np.zeros((1, 4, 4), dtype=bool), np.zeros((1, 4, 5), dtype=bool))


def test_recall_by_kind_and_size() -> None:
    instances = np.zeros((20, 30), dtype=np.uint16)
    instances[rectangle(0, 0, 8, 8)] = 3
    instances[rectangle(10, 0, 22, 12)] = 5
    instances[rectangle(25, 10, 28, 13)] = 7
    objects = [
        {"id": 3, "class": "house", "area": 64},
        {"id": 5, "class": "pond", "area": 144},
        {"id": 7, "class": "tree", "area": 9},
    ]
    # The house is matched by three quarters of it, the pond by a third, and the tree is too small to count.
    masks = np.stack([rectangle(0, 0, 8, 6), rectangle(10, 0, 22, 4)])
    scores = score_objects(instances, objects, masks)
    assert [(item.kind, item.area) for item in scores] == [("house", 64), ("pond", 144)]
    assert [item.iou for item in scores] == pytest.approx([0.75, 1 / 3])
    summary = report(scores)
    assert (summary.whole.objects, summary.whole.recall) == (2, 0.5)
    assert summary.whole.mean_iou == pytest.approx((0.75 + 1 / 3) / 2)
    assert summary.by_kind["house"] == Recall(1, 1.0, 0.75)
    assert summary.by_kind["pond"].recall == 0.0
    assert {least: part.recall for least, part in summary.by_size.items()} == {60: 1.0, 120: 0.0}
    assert report(scores, threshold=0.8).whole.recall == 0.0
    assert len(score_objects(instances, objects, masks, min_area=1)) == 3


def test_quality_is_the_best_iou_with_a_segment_of_any_map() -> None:
    fine = np.where(rectangle(0, 0, 10, 20), 1, 2)
    coarse = np.zeros((20, 30), dtype=int)
    masks = np.stack([rectangle(0, 0, 10, 10), rectangle(0, 0, 30, 20)])
    np.testing.assert_allclose(mask_quality([fine], masks), [0.5, 20 / 30])
    np.testing.assert_allclose(mask_quality([fine, coarse], masks), [0.5, 1.0])


def test_the_worlds_own_masks_match_every_object() -> None:
    pair = make_pair(WorldSettings(train=1, size=96, seed=5), "train", 0)
    instances = pair.instances[0]
    masks = np.stack([instances == number for number in np.unique(instances)])
    scores = score_objects(instances, [item.as_json() for item in pair.objects[0]], masks)
    assert scores
    assert report(scores).whole.mean_iou == 1.0
