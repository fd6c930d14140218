from __future__ import annotations

import pytest
import torch
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score, is_box_near_crop_edge
from torchvision.ops import box_iou

from pipeline.vision.sam.filtering import best, best_by_mask, cut_off, measure
from pipeline.vision.sam.points import Crop


def _logits() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.randn((1, 40, 4, 5), generator=generator), (33, 47), mode="bicubic")
    logits = smooth[0] - torch.linspace(-1, 3, 40)[:, None, None]
    # None above the higher threshold, one pixel, all, nothing at all.
    logits[0], logits[1], logits[2], logits[3] = 0.5, -9, 9, -9
    logits[1, 32, 46] = 3
    return logits


@pytest.mark.parametrize("offset", [0.3, 1.0])
def test_measures_are_segment_anythings(offset: float) -> None:
    logits = _logits()
    found = measure(logits, offset)
    expected = calculate_stability_score(logits, 0.0, offset)
    torch.testing.assert_close(found.stability, expected, equal_nan=True, rtol=0, atol=0)
    boxes = batched_mask_to_box(logits > 0)
    empty = found.boxes[:, 2] < found.boxes[:, 0]
    assert empty[3]
    assert not empty[:3].any()
    assert torch.equal(empty, ~(logits > 0).any(dim=(1, 2)))
    assert torch.equal(found.boxes[~empty], boxes[~empty])
    assert found.stability[3].isnan()
    assert found.stability[2] == 1


def test_masks_cut_off_by_a_crop_are_segment_anythings() -> None:
    corners = torch.randint(0, 300, (500, 2, 2), generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    boxes = corners.flatten(1)
    crop = Crop(left=60, top=0, right=250, bottom=200, points=1)
    inside = boxes.clamp(torch.tensor([60, 0, 60, 0]), torch.tensor([249, 199, 249, 199]))
    own = [crop.left, crop.top, crop.right, crop.bottom]
    expected = is_box_near_crop_edge(inside - torch.tensor([60, 0, 60, 0]), own, [0, 0, 300, 200])
    found = cut_off(inside, crop, (200, 300))
    assert torch.equal(found, expected)
    assert 0 < found.float().mean() < 1
    whole = Crop(left=0, top=0, right=300, bottom=200, points=1)
    assert not cut_off(boxes, whole, (200, 300)).any()


def test_the_best_of_those_that_overlap_stay() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 40, (120, 2, 2), generator=generator).sort(dim=1).values
    boxes, scores = corners.flatten(1), torch.rand(120, generator=generator)
    groups = torch.randint(0, 3, (120,), generator=generator)
    left: list[int] = []
    for number in scores.argsort(descending=True).tolist():
        mine = boxes[number].float()[None]
        rivals = [other for other in left if groups[other] == groups[number]]
        if all(box_iou(mine, boxes[other].float()[None]).nan_to_num(0).item() <= 0.4 for other in rivals):
            left.append(number)
    assert best(boxes, scores, groups, 0.4).tolist() == left
    assert 3 < len(left) < 100
    assert best(boxes[:0], scores[:0], groups[:0], 0.4).tolist() == []


def test_masks_overlap_by_what_they_cover_and_not_by_their_boxes() -> None:
    masks = torch.zeros((4, 8, 8), dtype=torch.bool)
    masks[0, 3], masks[1, :, 3] = True, True  # crossing roads
    masks[2, 3, :5] = True  # 5/8 of the first
    masks[3, 3, 4:] = True  # 4/8 of it
    assert best_by_mask(masks, 0.5).tolist() == [0, 1, 3]
    assert best_by_mask(masks, 0.7).tolist() == [0, 1, 2, 3]
    assert best_by_mask(masks[[3, 0]], 0.4).tolist() == [0]
    assert best_by_mask(masks[:0], 0.5).tolist() == []
    for at_once in (1, 2, 3):
        assert best_by_mask(masks, 0.5, at_once).tolist() == [0, 1, 3]
