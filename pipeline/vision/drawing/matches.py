"""Correspondences: both dates side by side, matched regions joined by lines, unmatched ones marked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.vision.drawing.canvas import Canvas
from pipeline.vision.drawing.palette import APPEARED, INK, MATCHES, VANISHED, Colour
from pipeline.vision.drawing.sheet import beside

GAP = 24
"""Pixels between the two dates."""
# Lines are drawn larger and reduced: Pillow's own have no soft edges.
_FINE = 3


@dataclass(frozen=True)
class DrawnRegions:
    """The N regions of one date as they are drawn.

    Attributes:
        image: RGB (H, W, 3) uint8.
        masks: (N, H, W) bool.
        centroids: (N, 2) x, y in pixels.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    centroids: NDArray[np.floating]


def draw_matches(
    before: DrawnRegions,
    after: DrawnRegions,
    matched: NDArray[np.integer],
    unmatched_before: NDArray[np.integer],
    unmatched_after: NDArray[np.integer],
    *,
    zoom: int | None = None,
) -> Image.Image:
    """Draw what a matcher says of a pair.

    Matched regions are outlined and joined in a colour of their own. Those of U1 are tinted red-orange with a minus,
    those of U2 blue-green with a plus.

    Args:
        before: Regions of the earlier image.
        after: Regions of the later image, which is as large.
        matched: (M, 2) region before, region after.
        unmatched_before: U1.
        unmatched_after: U2.
        zoom: By how much the images are enlarged; None: to about 512 pixels.

    Returns:
        RGB: earlier image, gap, later image.
    """
    left, right = _marked(before, unmatched_before, VANISHED, zoom), _marked(after, unmatched_after, APPEARED, zoom)
    for number, (p, q) in enumerate(matched.tolist()):
        colour = MATCHES[number % len(MATCHES)]
        left.outline(before.masks[p], colour, 2)
        right.outline(after.masks[q], colour, 2)
    for number in unmatched_before.tolist():
        left.sign(before.centroids[number], "minus")
    for number in unmatched_after.tolist():
        right.sign(after.centroids[number], "plus")
    pictures = left.picture(), right.picture()
    shift = pictures[0].width + GAP
    lines = [
        (
            (float(before.centroids[p, 0]) * left.zoom, float(before.centroids[p, 1]) * left.zoom),
            (float(after.centroids[q, 0]) * right.zoom + shift, float(after.centroids[q, 1]) * right.zoom),
            MATCHES[number % len(MATCHES)],
        )
        for number, (p, q) in enumerate(matched.tolist())
    ]
    return _joined(beside(pictures, gap=GAP), lines)


def _marked(regions: DrawnRegions, unmatched: NDArray[np.integer], colour: Colour, zoom: int | None) -> Canvas:
    canvas = Canvas(regions.image, zoom)
    # Small ones above large ones.
    for number in sorted(unmatched.tolist(), key=lambda number: -int(regions.masks[number].sum())):
        canvas.tint(regions.masks[number], colour, 0.45)
        canvas.outline(regions.masks[number], colour, 3, halo=True)
    return canvas


def _joined(picture: Image.Image, lines: list[tuple[tuple[float, float], tuple[float, float], Colour]]) -> Image.Image:
    """Draw lines with a dark edge and dots at their ends."""
    layer = Image.new("RGBA", (picture.width * _FINE, picture.height * _FINE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for start, end, colour in lines:
        ends = [(x * _FINE, y * _FINE) for x, y in (start, end)]
        for fill, width, radius in (((*INK, 170), 3.0, 5.0), ((*colour, 235), 1.4, 3.5)):
            draw.line(ends, fill, round(width * _FINE))
            for point in ends:
                draw.circle(point, radius * _FINE, fill)
    layer = layer.resize(picture.size, Image.Resampling.BOX)
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")
