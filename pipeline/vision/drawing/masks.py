"""Masks as coloured, translucent overlays with outlines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.vision.drawing.canvas import Canvas
from pipeline.vision.drawing.palette import REGIONS

_OPACITY = 0.42


def draw_masks(image: NDArray[np.uint8], masks: NDArray[np.bool_], *, zoom: int | None = None) -> Image.Image:
    """Draw masks over their image, small ones above large ones.

    Args:
        image: RGB (H, W, 3).
        masks: (N, H, W); N may be 0.
        zoom: By how much the image is enlarged; None: to about 512 pixels.

    Returns:
        RGB, `zoom` times the size of the image.
    """
    canvas = Canvas(image, zoom)
    order = np.argsort(-masks.sum((1, 2)), kind="stable")
    for number in order.tolist():
        canvas.tint(masks[number], REGIONS[number % len(REGIONS)], _OPACITY)
    for number in order.tolist():
        canvas.outline(masks[number], REGIONS[number % len(REGIONS)])
    return canvas.picture()
