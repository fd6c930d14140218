from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from pipeline.vision.masks import encode_rle
from pipeline.vision.sam.postprocess import pack


@given(
    st.tuples(st.integers(0, 5), st.integers(1, 7), st.integers(1, 9)).flatmap(
        lambda shape: arrays.arrays(np.bool_, shape)
    )
)
def test_masks_are_described_as_a_plain_loop_does(bitmaps: NDArray[np.bool_]) -> None:
    bitmaps = bitmaps[bitmaps.any(axis=(1, 2))]
    scores = np.linspace(0.9, 0.5, len(bitmaps), dtype=np.float32)
    masks = pack(torch.from_numpy(bitmaps), torch.from_numpy(scores), torch.from_numpy(scores[::-1].copy()))
    assert len(masks) == len(bitmaps)
    assert masks.size == bitmaps.shape[1:]
    np.testing.assert_array_equal(masks.bitmaps(), bitmaps)
    np.testing.assert_array_equal(masks.predicted_iou, scores)
    np.testing.assert_array_equal(masks.stability, scores[::-1])
    expected = [encode_rle(mask) for mask in bitmaps]
    assert masks.runs.tolist() == [len(counts) for counts in expected]
    np.testing.assert_array_equal(masks.counts, np.concatenate([np.zeros(0, np.uint32), *expected]))
    for number, mask in enumerate(bitmaps):
        y, x = np.nonzero(mask)
        assert masks.areas[number] == len(x)
        assert masks.boxes[number].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        np.testing.assert_allclose(masks.centroids[number], [x.mean() + 0.5, y.mean() + 0.5], rtol=1e-6)


def test_types_are_those_of_the_cache() -> None:
    for count in (0, 2):
        arrays_ = pack(torch.ones(count, 3, 4, dtype=torch.bool), torch.ones(count), torch.ones(count)).arrays()
        types = {name: (array.dtype.name, array.ndim) for name, array in arrays_.items()}
        assert types == {
            "boxes": ("float32", 2),
            "centroids": ("float32", 2),
            "areas": ("int32", 1),
            "predicted_iou": ("float32", 1),
            "stability": ("float32", 1),
            "runs": ("int32", 1),
            "counts": ("uint32", 1),
            "size": ("int32", 1),
        }
        assert arrays_["size"].tolist() == [3, 4]
