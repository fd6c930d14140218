"""A semantic map of an image from its regions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def paint(
    masks: NDArray[np.bool_], categories: NDArray[np.integer], scores: NDArray[np.floating]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Give every pixel the category of the best-scoring mask that covers it, the earlier one of equals.

    Args:
        masks: (J, H, W).
        categories: (J), below 255.
        scores: (J) in [0, 1].

    Returns:
        Category + 1 per pixel, 0 for none, and score × 255 rounded, 0 for none; both uint8 (H, W).
    """
    labels = np.zeros(masks.shape[1:], dtype=np.uint8)
    marks = np.zeros(masks.shape[1:], dtype=np.uint8)
    for row in np.argsort(-scores, kind="stable")[::-1]:
        labels[masks[row]] = categories[row] + 1
        marks[masks[row]] = round(float(scores[row]) * 255)
    return labels, marks
