from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pycocotools import mask as coco

from pipeline.vision.masks import decode_rle, decode_rles, encode_rle

MASKS = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


@given(MASKS)
def test_masks_come_back(mask: NDArray[np.bool_]) -> None:
    counts = encode_rle(mask)
    assert counts.dtype == np.uint32
    assert counts.sum() == mask.size
    assert (counts[1:] > 0).all()
    np.testing.assert_array_equal(decode_rle(counts, *mask.shape), mask)


@given(MASKS)
def test_run_lengths_are_cocos(mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    ours = coco.frPyObjects({"size": [height, width], "counts": encode_rle(mask).tolist()}, height, width)
    assert ours == coco.encode(np.asfortranarray(mask.astype(np.uint8)))


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        ([[0, 1], [1, 1]], [1, 3]),
        ([[1, 0], [0, 0]], [0, 1, 3]),
        ([[0, 0, 0]], [3]),
        ([[1, 1]], [0, 2]),
    ],
)
def test_examples(mask: list[list[int]], counts: list[int]) -> None:
    assert encode_rle(np.array(mask, dtype=np.bool_)).tolist() == counts


@given(st.integers(0, 5), st.integers(0, 5))
def test_masks_without_pixels(height: int, width: int) -> None:
    mask = np.zeros((height, width if height == 0 else 0), dtype=np.bool_)
    assert encode_rle(mask).size == 0
    assert decode_rle(encode_rle(mask), *mask.shape).shape == mask.shape


def test_runs_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="5 pixels for a mask of 2×3"):
        decode_rle(np.array([2, 3], dtype=np.uint32), 2, 3)


@given(arrays.arrays(np.bool_, arrays.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=5)))
def test_all_masks_come_back(masks: NDArray[np.bool_]) -> None:
    pieces = [encode_rle(mask) for mask in masks]
    runs = np.array([len(piece) for piece in pieces], dtype=np.int32)
    counts = np.concatenate([np.zeros(0, dtype=np.uint32), *pieces])
    np.testing.assert_array_equal(decode_rles(runs, counts, *masks.shape[1:]), masks)
