from __future__ import annotations

import numpy as np
import pytest

from pipeline.datasets.palette import SECOND_CC_CLASSES, decode_palette, resize_nearest
from pipeline.errors import DataError

COLOURS = np.array([colour for _, colour in SECOND_CC_CLASSES], dtype=np.uint8)


def test_every_class_comes_back() -> None:
    index = np.random.default_rng(0).integers(0, 7, (9, 13), dtype=np.uint8)
    decoded = decode_palette(COLOURS[index])
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, index)


def test_names_follow_their_colours() -> None:
    assert dict(SECOND_CC_CLASSES)["building"] == (128, 0, 0)
    names = [name for name, _ in SECOND_CC_CLASSES]
    pixel = np.array([[[0, 255, 0], [0, 128, 0], [128, 128, 128]]], dtype=np.uint8)
    assert [names[i] for i in decode_palette(pixel)[0]] == ["tree", "low vegetation", "non-vegetated ground"]


@pytest.mark.parametrize("colour", [(0, 0, 0), (254, 255, 255), (0, 192, 0), (255, 255, 0), (129, 0, 0)])
def test_unknown_colour_names_itself_and_its_place(colour: tuple[int, int, int]) -> None:
    rgb = np.full((4, 6, 3), 255, dtype=np.uint8)
    rgb[2, 5] = rgb[3, 0] = colour
    with pytest.raises(DataError, match=r"row 2, column 5") as caught:
        decode_palette(rgb, "sem/A/00001.png")
    assert str(colour) in caught.value.what
    assert caught.value.where == "sem/A/00001.png"


def test_a_blend_of_two_classes_is_refused() -> None:
    """What bilinear resizing makes of the border between building and water."""
    blend = ((COLOURS[5].astype(int) + COLOURS[4]) // 2).astype(np.uint8)
    with pytest.raises(DataError, match="no class of SECOND-CC"):
        decode_palette(np.stack([[COLOURS[5], blend, COLOURS[4]]]))


@pytest.mark.parametrize("size", [(8, 8), (3, 5), (16, 12), (1, 1)])
def test_resizing_invents_no_class_and_takes_the_nearest(size: tuple[int, int]) -> None:
    index = np.random.default_rng(1).integers(0, 7, (8, 6), dtype=np.uint8)
    resized = resize_nearest(index, size)
    assert resized.shape == size
    for row in range(size[0]):
        for column in range(size[1]):
            source = int((row + 0.5) * 8 / size[0]), int((column + 0.5) * 6 / size[1])
            assert resized[row, column] == index[source]


def test_resizing_to_the_same_size_changes_nothing() -> None:
    index = np.arange(48, dtype=np.uint8).reshape(8, 6)
    assert np.array_equal(resize_nearest(index, (8, 6)), index)
