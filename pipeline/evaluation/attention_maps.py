"""Agreement of maps over the image grid with the true change mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def changed_share(changed: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return the changed share of each grid cell, float64 (h, w), from a change mask (H, W).

    Raises:
        ValueError: The mask cannot be divided into as many equal cells.
    """
    (height, width), (rows, columns) = changed.shape, grid
    if height % rows or width % columns:
        raise ValueError(f"a mask of {height}×{width} pixels has no grid of {rows}×{columns} equal cells")
    cells = changed.reshape(rows, height // rows, columns, width // columns)
    share: NDArray[np.float64] = cells.mean((1, 3))
    return share


def mass_on_change(weights: NDArray[Any], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of attention on changed pixels; a cell's weight is spread evenly over its pixels.

    Args:
        weights: (…, h, w), not negative; scaled here to sum to 1 over the grid.
        share: (h, w), see `changed_share`. Its mean is the result for uniform attention.

    Returns:
        (…), in [0, 1].
    """
    weights = np.asarray(weights, np.float64)
    total: NDArray[np.float64] = weights.sum((-2, -1))
    mass: NDArray[np.float64] = (weights * share).sum((-2, -1)) / total
    return mass


def area_under_curve(scores: Sequence[NDArray[Any]], shares: Sequence[NDArray[np.float64]]) -> float:
    """Return the area under the ROC curve of cell scores as a detector of changed pixels, over all maps.

    It is the probability that a changed pixel's cell has a higher score than an unchanged one's; ties count half.

    Args:
        scores: Scores of each map, (h, w).
        shares: Changed share of each map's cells, (h, w).

    Raises:
        ValueError: Nothing changed, or everything.
    """
    values = np.concatenate([np.ravel(score) for score in scores]).astype(np.float64)
    positive = np.concatenate([np.ravel(share) for share in shares])
    if not 0 < positive.sum() < len(positive):
        raise ValueError("both changed and unchanged pixels are needed")
    _, level = np.unique(values, return_inverse=True)
    of_changed, of_unchanged = np.bincount(level, positive), np.bincount(level, 1 - positive)
    below = np.cumsum(of_unchanged) - of_unchanged
    wins = (of_changed * (below + of_unchanged / 2)).sum()
    return float(wins / (of_changed.sum() * of_unchanged.sum()))
