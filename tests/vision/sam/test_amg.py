from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from segment_anything.utils.amg import (
    batched_mask_to_box,
    build_all_layer_point_grids,
    calculate_stability_score,
    generate_crop_boxes,
    is_box_near_crop_edge,
)
from segment_anything.utils.amg import remove_small_regions as remove_small_regions_by_opencv
from segment_anything.utils.transforms import ResizeLongestSide
from torchvision.ops import box_iou

from pipeline.vision.sam.amg import (
    Crop,
    box_nms,
    coarse_indices,
    crops,
    inclusive_boxes,
    mask_nms,
    measure,
    near_crop_edge,
    point_grid,
    remove_small_regions,
)
from pipeline.vision.sam.encoder import input_size
from pipeline.vision.sam.settings import GeneratorSettings


@given(st.integers(32, 2000), st.integers(32, 2000), st.integers(0, 3), st.floats(0, 0.9))
def test_crops_are_segment_anythings(height: int, width: int, layers: int, overlap: float) -> None:
    settings = GeneratorSettings(
        points_per_side=12, crop_n_layers=layers, crop_overlap_ratio=overlap, crop_n_points_downscale_factor=2
    )
    ours = crops(height, width, settings)
    boxes, numbers = generate_crop_boxes((height, width), layers, overlap)
    assert [[crop.left, crop.top, crop.right, crop.bottom] for crop in ours] == boxes
    grids = build_all_layer_point_grids(12, layers, 2)
    assert [crop.points**2 for crop in ours] == [len(grids[number]) for number in numbers]


def test_images_smaller_than_their_crops_still_have_them_all() -> None:
    ours = crops(3, 5, GeneratorSettings(points_per_side=2, crop_n_layers=3, crop_n_points_downscale_factor=4))
    assert len(ours) == 1 + 4 + 16 + 64
    assert all(crop.left < crop.right <= 5 and crop.top < crop.bottom <= 3 and crop.points >= 1 for crop in ours)


@pytest.mark.parametrize(("size", "points"), [((128, 128), 16), ((90, 201), 5), ((1000, 333), 1)])
def test_points_are_segment_anythings(size: tuple[int, int], points: int) -> None:
    unit = build_all_layer_point_grids(points, 0, 1)[0]
    expected = ResizeLongestSide(1024).apply_coords(unit * np.array(size)[None, ::-1], size)
    ours = point_grid(points, size, input_size(*size, 1024))
    np.testing.assert_array_equal(ours, expected)
    assert ours.dtype == np.float64


def test_a_crop_is_cut_out() -> None:
    image = np.arange(6 * 7 * 3, dtype=np.uint8).reshape(6, 7, 3)
    crop = Crop(left=2, top=1, right=6, bottom=4, points=1)
    assert crop.size == (3, 4)
    np.testing.assert_array_equal(crop.cut(image), image[1:4, 2:6])


@pytest.mark.parametrize(("points", "stride"), [(16, 1), (16, 2), (24, 3), (5, 4), (3, 9)])
def test_coarse_indices_are_every_nth_point_in_both_directions(points: int, stride: int) -> None:
    indices = coarse_indices(points, stride)
    rows, columns = (sorted(set(line.tolist())) for line in np.divmod(indices, points))
    assert rows == columns
    assert len(set(indices.tolist())) == len(indices) == len(rows) ** 2
    assert set(np.diff(rows).tolist()) <= {stride}
    assert np.abs(np.arange(points)[:, None] - rows).min(axis=1).max() < max(stride, 2)


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
    measures = measure(logits, offset)
    expected = calculate_stability_score(logits, 0.0, offset)
    torch.testing.assert_close(measures.stability, expected, equal_nan=True, rtol=0, atol=0)
    boxes = batched_mask_to_box(logits > 0)
    empty = measures.boxes[:, 2] < measures.boxes[:, 0]
    assert empty[3]
    assert not empty[:3].any()
    assert torch.equal(empty, ~(logits > 0).any(dim=(1, 2)))
    assert torch.equal(measures.boxes[~empty], boxes[~empty])
    assert measures.stability[3].isnan()
    assert measures.stability[2] == 1


def test_boxes_end_at_the_last_pixel() -> None:
    masks = torch.zeros((3, 6, 8), dtype=torch.bool)
    masks[0, 1:3, 2:7] = True
    masks[1, 5, 0] = True
    boxes = inclusive_boxes(masks.any(dim=1), masks.any(dim=2))
    assert boxes.tolist() == [[2, 1, 6, 2], [0, 5, 0, 5], [8, 6, -1, -1]]


def test_masks_near_a_crops_edge_are_segment_anythings() -> None:
    corners = torch.randint(0, 300, (500, 2, 2), generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    boxes = corners.flatten(1)
    crop = Crop(left=60, top=0, right=250, bottom=200, points=1)
    inside = boxes.clamp(torch.tensor([60, 0, 60, 0]), torch.tensor([249, 199, 249, 199]))
    crop_box = [crop.left, crop.top, crop.right, crop.bottom]
    expected = is_box_near_crop_edge(inside - torch.tensor([60, 0, 60, 0]), crop_box, [0, 0, 300, 200])
    ours = near_crop_edge(inside, crop, (200, 300))
    assert torch.equal(ours, expected)
    assert 0 < ours.float().mean() < 1
    whole = Crop(left=0, top=0, right=300, bottom=200, points=1)
    assert not near_crop_edge(boxes, whole, (200, 300)).any()


def test_box_nms_against_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 40, (120, 2, 2), generator=generator).sort(dim=1).values
    boxes, scores = corners.flatten(1), torch.rand(120, generator=generator)
    groups = torch.randint(0, 3, (120,), generator=generator)
    remaining: list[int] = []
    for number in scores.argsort(descending=True).tolist():
        box = boxes[number].float()[None]
        rivals = [other for other in remaining if groups[other] == groups[number]]
        if all(box_iou(box, boxes[other].float()[None]).nan_to_num(0).item() <= 0.4 for other in rivals):
            remaining.append(number)
    assert box_nms(boxes, scores, groups, 0.4).tolist() == remaining
    assert 3 < len(remaining) < 100
    assert box_nms(boxes[:0], scores[:0], groups[:0], 0.4).tolist() == []


def test_mask_nms_compares_masks_and_not_their_boxes() -> None:
    masks = torch.zeros((4, 8, 8), dtype=torch.bool)
    masks[0, 3], masks[1, :, 3] = True, True  # crossing roads
    masks[2, 3, :5] = True  # 5/8 of the first
    masks[3, 3, 4:] = True  # 4/8 of it
    assert mask_nms(masks, 0.5).tolist() == [0, 1, 3]
    assert mask_nms(masks, 0.7).tolist() == [0, 1, 2, 3]
    assert mask_nms(masks[[3, 0]], 0.4).tolist() == [0]
    assert mask_nms(masks[:0], 0.5).tolist() == []
    for block_size in (1, 2, 3):
        assert mask_nms(masks, 0.5, block_size).tolist() == [0, 1, 3]


@pytest.mark.parametrize("area", [1, 4, 12, 100_000])
@pytest.mark.parametrize("density", [0.05, 0.5, 0.8])
def test_small_regions_are_removed_as_by_opencv(area: int, density: float) -> None:
    random = np.random.default_rng(int(10 * density))
    changes = []
    for _ in range(20):
        mask = random.random((24, 31)) < density
        filled, holes = remove_small_regions_by_opencv(mask, area, mode="holes")
        expected, islands = remove_small_regions_by_opencv(filled, area, mode="islands")
        cleaned, changed = remove_small_regions(mask, area)
        assert changed == (holes or islands)
        changes.append(changed)
        # Of equally large islands OpenCV and SciPy may retain different ones as the last.
        if expected.sum() >= area:
            np.testing.assert_array_equal(cleaned, expected)
        else:
            assert cleaned.sum() == expected.sum()
    assert any(changes) == (area > 1)


def test_holes_and_islands() -> None:
    mask = np.zeros((8, 12), dtype=np.bool_)
    mask[1:6, 1:6] = True
    mask[3, 3] = False
    mask[6, 10] = True
    cleaned, changed = remove_small_regions(mask, 3)
    assert changed
    assert cleaned.sum() == 25
    assert remove_small_regions(cleaned, 3)[1] is False
