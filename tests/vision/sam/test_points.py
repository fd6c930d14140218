from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes
from segment_anything.utils.transforms import ResizeLongestSide

from pipeline.vision.sam.encoding import input_size
from pipeline.vision.sam.points import Crop, crops, every, grid
from pipeline.vision.sam.settings import GeneratorSettings


@given(st.integers(32, 2000), st.integers(32, 2000), st.integers(0, 3), st.floats(0, 0.9))
def test_crops_are_segment_anythings(height: int, width: int, layers: int, overlap: float) -> None:
    settings = GeneratorSettings(points_per_side=12, crop_layers=layers, crop_overlap=overlap, crop_points_downscale=2)
    found = crops(height, width, settings)
    boxes, numbers = generate_crop_boxes((height, width), layers, overlap)
    assert [[crop.left, crop.top, crop.right, crop.bottom] for crop in found] == boxes
    grids = build_all_layer_point_grids(12, layers, 2)
    assert [crop.points**2 for crop in found] == [len(grids[number]) for number in numbers]


def test_images_smaller_than_their_crops_still_have_them_all() -> None:
    found = crops(3, 5, GeneratorSettings(points_per_side=2, crop_layers=3, crop_points_downscale=4))
    assert len(found) == 1 + 4 + 16 + 64
    assert all(crop.left < crop.right <= 5 and crop.top < crop.bottom <= 3 and crop.points >= 1 for crop in found)


@pytest.mark.parametrize(("size", "points"), [((128, 128), 16), ((90, 201), 5), ((1000, 333), 1)])
def test_points_are_segment_anythings(size: tuple[int, int], points: int) -> None:
    unit = build_all_layer_point_grids(points, 0, 1)[0]
    expected = ResizeLongestSide(1024).apply_coords(unit * np.array(size)[None, ::-1], size)
    found = grid(points, size, input_size(*size, 1024))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float64


def test_a_crop_is_cut_out() -> None:
    image = np.arange(6 * 7 * 3, dtype=np.uint8).reshape(6, 7, 3)
    crop = Crop(left=2, top=1, right=6, bottom=4, points=1)
    assert crop.size == (3, 4)
    np.testing.assert_array_equal(crop.of(image), image[1:4, 2:6])


@pytest.mark.parametrize(("points", "stride"), [(16, 1), (16, 2), (24, 3), (5, 4), (3, 9)])
def test_every_nth_point_is_asked_in_both_directions(points: int, stride: int) -> None:
    chosen = every(points, stride)
    rows, columns = (sorted(set(line.tolist())) for line in np.divmod(chosen, points))
    assert rows == columns
    assert len(set(chosen.tolist())) == len(chosen) == len(rows) ** 2
    assert set(np.diff(rows).tolist()) <= {stride}
    assert np.abs(np.arange(points)[:, None] - rows).min(axis=1).max() < max(stride, 2)
