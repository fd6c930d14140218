"""Run lengths of binary masks as COCO counts them: down the columns, the first run being of zeros."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def encode(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return the run lengths of a mask (H, W): they alternate between false and true, beginning with false."""
    flat = mask.ravel(order="F")
    if flat.size == 0:
        return np.zeros(0, dtype=np.uint32)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], edges, [flat.size]])
    counts = np.diff(bounds).astype(np.uint32)
    return np.concatenate([np.zeros(1, dtype=np.uint32), counts]) if flat[0] else counts


def decode(counts: NDArray[np.unsignedinteger], height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask (height, width) of its run lengths.

    Raises:
        ValueError: The runs do not add up to height × width.
    """
    total = int(counts.sum())
    if total != height * width:
        raise ValueError(f"runs of {total} pixels for a mask of {height}×{width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")


def decode_all(
    runs: NDArray[np.integer], counts: NDArray[np.unsignedinteger], height: int, width: int
) -> NDArray[np.bool_]:
    """Return the masks (N, height, width) whose run lengths lie in `counts` one after the other, `runs` (N) of each.

    Raises:
        ValueError: The runs of a mask do not add up to height × width.
    """
    masks = np.zeros((len(runs), height, width), dtype=np.bool_)
    ends = np.cumsum(runs, dtype=np.int64)
    for mask, end, length in zip(masks, ends, runs, strict=True):
        mask[:] = decode(counts[end - length : end], height, width)
    return masks
