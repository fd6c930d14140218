"""Semantic maps that are stored as colours: SECOND-CC's palette, decoded by exact colour."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError

SECOND_CC_CLASSES: Final[tuple[tuple[str, tuple[int, int, int]], ...]] = (
    ("no change", (255, 255, 255)),
    ("low vegetation", (0, 128, 0)),
    ("tree", (0, 255, 0)),
    ("non-vegetated ground", (128, 128, 128)),
    ("water", (0, 0, 255)),
    ("building", (128, 0, 0)),
    ("playground", (255, 0, 0)),
)
"""Name and colour of each class; its position is the class index. "no change" marks every pixel whose land cover is the
same at both dates."""

_UNKNOWN: Final = 255


def decode_palette(rgb: NDArray[np.uint8], where: str | Path | None = None) -> NDArray[np.uint8]:
    """Turn a semantic map of colours into class indices of `SECOND_CC_CLASSES`.

    Args:
        rgb: uint8, (H, W, 3).
        where: The file, for the error.

    Returns:
        uint8, (H, W), values 0 to 6.

    Raises:
        DataError: A colour is not in the palette; the message names it and its first place. A map that was resized
            with interpolation or saved as JPEG has such colours.
    """
    codes = _pack(rgb)
    palette = _pack(np.array([colour for _, colour in SECOND_CC_CLASSES], dtype=np.uint8))
    order = np.argsort(palette)
    nearest = order[np.searchsorted(palette[order], codes).clip(max=len(order) - 1)]
    indices = np.where(palette[nearest] == codes, nearest, _UNKNOWN).astype(np.uint8)
    if (indices == _UNKNOWN).any():
        row, column = (int(value) for value in np.argwhere(indices == _UNKNOWN)[0])
        colour = tuple(int(value) for value in rgb[row, column])
        raise DataError(
            f"the semantic map has the colour {colour} at row {row}, column {column}, which is no class of SECOND-CC",
            where=where,
            fix="use the data set's own PNG maps; maps that are resized or saved as JPEG have blended colours",
        )
    return indices


def resize_nearest(indices: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a map of class indices to `size` (height, width), taking the nearest pixel: classes never blend."""
    rows, columns = (
        ((2 * np.arange(new) + 1) * old) // (2 * new) for old, new in zip(indices.shape, size, strict=True)
    )
    return indices[np.ix_(rows, columns)]


def _pack(rgb: NDArray[np.uint8]) -> NDArray[np.uint32]:
    packed: NDArray[np.uint32] = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    return packed
