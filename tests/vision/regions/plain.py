"""RoIAlign as a plain loop, after the definition in Mask R-CNN with half-pixel alignment."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def bilinear(feature: NDArray[np.float64], y: float, x: float) -> NDArray[np.float64]:
    """Value of (C, h, w) at row `y`, column `x`, cell centres at whole numbers, the edge continued outwards."""
    _, h, w = feature.shape
    y, x = min(max(y, 0.0), h - 1.0), min(max(x, 0.0), w - 1.0)
    top, left = min(math.floor(y), max(h - 2, 0)), min(math.floor(x), max(w - 2, 0))
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * feature[:, top, left] + dx * feature[:, top, right]
    lower = (1 - dx) * feature[:, bottom, left] + dx * feature[:, bottom, right]
    return (1 - dy) * upper + dy * lower


def align(feature: NDArray[np.float64], box: NDArray[np.float64], bins: int, ratio: int) -> NDArray[np.float64]:
    """RoIAlign of one box (left, top, right, bottom in cells) to (C, bins, bins); ratio 0: bin size rounded up."""
    left, top, right, bottom = box
    height, width = (bottom - top) / bins, (right - left) / bins
    ny, nx = (ratio or math.ceil(height), ratio or math.ceil(width))
    result = np.zeros((len(feature), bins, bins))
    for row in range(bins):
        for column in range(bins):
            for i in range(ny):
                for j in range(nx):
                    y = top + (row + (i + 0.5) / ny) * height - 0.5
                    x = left + (column + (j + 0.5) / nx) * width - 0.5
                    result[:, row, column] += bilinear(feature, y, x) / (ny * nx)
    return result


def pool(bins: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Adaptive average pooling of (C, n, n) to (C, size, size)."""
    n = bins.shape[1]
    edges = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
    return np.stack(
        [np.stack([bins[:, a:b, c:d].mean((1, 2)) for c, d in edges], axis=1) for a, b in edges],
        axis=1,
    )
