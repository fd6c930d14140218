"""Removing small holes and islands from masks, as segment_anything's `remove_small_regions` does with OpenCV."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_TOUCHING = np.ones((3, 3), dtype=np.bool_)
"""Pixels that touch at a corner are of one region."""


def without_small_regions(mask: NDArray[np.bool_], area: int) -> tuple[NDArray[np.bool_], bool]:
    """Fill the holes of a mask (H, W) of fewer than `area` pixels, then remove its islands of fewer.

    Where all islands are that small, the largest stays.

    Returns:
        The mask, and whether it has changed.
    """
    holes, small, _ = _regions(~mask, area)
    filled = mask | np.isin(holes, small)
    islands, less, largest = _regions(filled, area)
    if less.size:
        kept = np.setdiff1d(np.arange(1, int(islands.max()) + 1), less)
        filled = np.isin(islands, kept if kept.size else largest)
    return filled, bool(small.size or less.size)


def _regions(mask: NDArray[np.bool_], area: int) -> tuple[NDArray[np.int32], NDArray[np.int64], int]:
    """Return a mask's regions numbered from 1, the numbers of those of fewer than `area` pixels, and of the largest."""
    labels, count = ndimage.label(mask, structure=_TOUCHING)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return labels, np.flatnonzero(sizes < area) + 1, int(sizes.argmax()) + 1 if count else 0
