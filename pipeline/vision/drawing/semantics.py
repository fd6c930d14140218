"""Semantic regions with their categories and scores, and semantic maps with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.vision.drawing.canvas import Canvas, font
from pipeline.vision.drawing.palette import INK, PAPER, category_colours
from pipeline.vision.drawing.sheet import stacked

_LETTERS = 15
_ROW = 24
_SWATCH = 14


def draw_semantic_regions(
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    boxes: NDArray[np.floating],
    categories: NDArray[np.integer],
    scores: NDArray[np.floating],
    names: Sequence[str],
    *,
    zoom: int | None = None,
) -> Image.Image:
    """Draw regions in the colours of their categories, each with name and score where there is room for it.

    Args:
        image: RGB (H, W, 3).
        masks: (N, H, W); N may be 0.
        boxes: (N, 4) left, top, right, bottom in pixels.
        categories: (N) numbers of `names`.
        scores: (N) the detector's scores; high ones are labelled first.
        names: All categories.
        zoom: By how much the image is enlarged; None: to about 512 pixels.

    Returns:
        RGB, `zoom` times the size of the image.
    """
    colours = category_colours(names)
    canvas = Canvas(image, zoom)
    order = np.argsort(-masks.sum((1, 2)), kind="stable").tolist()
    for number in order:
        canvas.tint(masks[number], colours[categories[number]], 0.35)
    for number in order:
        canvas.outline(masks[number], colours[categories[number]], 2)
    for number in np.argsort(-scores, kind="stable").tolist():
        category = int(categories[number])
        canvas.label(boxes[number].tolist(), f"{names[category]} {scores[number]:.2f}", colours[category])
    return canvas.picture()


def draw_semantic_map(
    image: NDArray[np.uint8],
    categories: NDArray[np.integer],
    names: Sequence[str],
    *,
    zoom: int | None = None,
    legend: bool = True,
) -> Image.Image:
    """Draw a semantic map in colour over the image in pale grey.

    Args:
        image: RGB (H, W, 3).
        categories: (H, W): number of `names` plus one, 0 for none.
        names: All categories.
        zoom: By how much the image is enlarged; None: to about 512 pixels.
        legend: Whether the categories that occur are listed below, with their shares of the picture.

    Returns:
        RGB, `zoom` times the size of the image, and higher by the legend.
    """
    canvas = Canvas(image, zoom)
    canvas.fade(0.35)
    for category, colour in enumerate(category_colours(names), start=1):
        canvas.tint(categories == category, colour, 0.72)
    picture = canvas.picture()
    return stacked([picture, draw_legend([categories], names, picture.width)], gap=0) if legend else picture


def draw_legend(maps: Sequence[NDArray[np.integer]], names: Sequence[str], width: int) -> Image.Image:
    """Draw the categories that occur in semantic maps, with their shares of all pixels, in rows `width` wide.

    Args:
        maps: Semantic maps, see `draw_semantic_map`.
        names: All categories.
        width: In pixels.
    """
    letters = font(_LETTERS)
    colours = category_colours(names)
    total = max(sum(values.size for values in maps), 1)
    shares = [sum(int((values == number).sum()) for values in maps) / total for number in range(1, len(names) + 1)]
    entries = [(colours[i], f"{names[i]} {share:.0%}") for i, share in enumerate(shares) if share > 0]
    if not entries:
        entries = [(PAPER, "no category found")]
    places: list[tuple[int, int]] = []
    x, row = 8, 0
    for _, text in entries:
        needed = _SWATCH + 6 + round(letters.getlength(text)) + 16
        if x > 8 and x + needed > width:
            x, row = 8, row + 1
        places.append((x, row))
        x += needed
    picture = Image.new("RGB", (width, _ROW * (row + 1) + 8), PAPER)
    draw = ImageDraw.Draw(picture)
    for (colour, text), (left, line) in zip(entries, places, strict=True):
        middle = 4 + line * _ROW + _ROW // 2
        swatch = (left, middle - _SWATCH // 2, left + _SWATCH, middle + _SWATCH // 2)
        draw.rectangle(swatch, fill=colour, outline=INK if colour != PAPER else PAPER)
        draw.text((left + _SWATCH + 6, middle), text, INK, letters, anchor="lm")
    return picture
