"""Drawings of a pair's regions: masks, correspondences, semantic regions and maps, alone or on a sheet of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.vision.drawing.canvas import (
    APPEARED,
    INK,
    MATCHES,
    PAPER,
    REGIONS,
    VANISHED,
    Canvas,
    Colour,
    beside,
    category_colours,
    contact_sheet,
    font,
    stacked,
    titled,
)

_OPACITY = 0.42


def draw_masks(image: NDArray[np.uint8], masks: NDArray[np.bool_], *, zoom: int | None = None) -> Image.Image:
    """Draw masks as translucent, outlined overlays of their image, small ones above large ones.

    Args:
        image: RGB (H, W, 3).
        masks: (N, H, W); N may be 0.
        zoom: Factor by which the image is enlarged; None: to about 512 pixels.

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


GAP = 24
"""Pixels between the two dates."""
# Lines are drawn at this scale and reduced, since Pillow does not antialias them.
_SUPERSAMPLING = 3


@dataclass(frozen=True)
class DrawnRegions:
    """The N regions of one date.

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
    """Draw both dates side by side with their correspondences.

    Matched regions are outlined and joined by a line in one colour per match. Those of U1 are tinted red-orange with a
    minus, those of U2 blue-green with a plus.

    Args:
        before: Regions of the earlier image.
        after: Regions of the later image, which is as large.
        matched: (M, 2) region before, region after.
        unmatched_before: U1.
        unmatched_after: U2.
        zoom: Factor by which the images are enlarged; None: to about 512 pixels.

    Returns:
        RGB: earlier image, gap, later image.
    """
    left, right = (
        _mark_unmatched(before, unmatched_before, VANISHED, zoom),
        _mark_unmatched(after, unmatched_after, APPEARED, zoom),
    )
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
    return _draw_lines(beside(pictures, gap=GAP), lines)


def _mark_unmatched(regions: DrawnRegions, unmatched: NDArray[np.integer], colour: Colour, zoom: int | None) -> Canvas:
    canvas = Canvas(regions.image, zoom)
    # Small ones above large ones.
    for number in sorted(unmatched.tolist(), key=lambda number: -int(regions.masks[number].sum())):
        canvas.tint(regions.masks[number], colour, 0.45)
        canvas.outline(regions.masks[number], colour, 3, halo=True)
    return canvas


def _draw_lines(
    picture: Image.Image, lines: list[tuple[tuple[float, float], tuple[float, float], Colour]]
) -> Image.Image:
    """Draw lines with dark edges and dots at their ends."""
    layer = Image.new("RGBA", (picture.width * _SUPERSAMPLING, picture.height * _SUPERSAMPLING), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for start, end, colour in lines:
        ends = [(x * _SUPERSAMPLING, y * _SUPERSAMPLING) for x, y in (start, end)]
        for fill, width, radius in (((*INK, 170), 3.0, 5.0), ((*colour, 235), 1.4, 3.5)):
            draw.line(ends, fill, round(width * _SUPERSAMPLING))
            for point in ends:
                draw.circle(point, radius * _SUPERSAMPLING, fill)
    layer = layer.resize(picture.size, Image.Resampling.BOX)
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


_FONT_SIZE = 15
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
    """Draw regions in the colours of their categories, with name and score where a label fits.

    Args:
        image: RGB (H, W, 3).
        masks: (N, H, W); N may be 0.
        boxes: (N, 4) left, top, right, bottom in pixels.
        categories: (N) indices into `names`.
        scores: (N) detection scores; regions with high ones are labelled first.
        names: All categories.
        zoom: Factor by which the image is enlarged; None: to about 512 pixels.

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
    """Draw a semantic map over the image in pale grey.

    Args:
        image: RGB (H, W, 3).
        categories: (H, W): index into `names` plus one, 0 for none.
        names: All categories.
        zoom: Factor by which the image is enlarged; None: to about 512 pixels.
        legend: Whether to list the occurring categories and their shares of the image below.

    Returns:
        RGB, `zoom` times the size of the image, plus the legend below it.
    """
    canvas = Canvas(image, zoom)
    canvas.fade(0.35)
    for category, colour in enumerate(category_colours(names), start=1):
        canvas.tint(categories == category, colour, 0.72)
    picture = canvas.picture()
    return stacked([picture, draw_legend([categories], names, picture.width)], gap=0) if legend else picture


def draw_legend(maps: Sequence[NDArray[np.integer]], names: Sequence[str], width: int) -> Image.Image:
    """Draw a legend of the categories in semantic maps with their shares of all pixels.

    Args:
        maps: Semantic maps, see `draw_semantic_map`.
        names: All categories.
        width: Width of the legend in pixels.
    """
    typeface = font(_FONT_SIZE)
    colours = category_colours(names)
    total = max(sum(values.size for values in maps), 1)
    shares = [sum(int((values == number).sum()) for values in maps) / total for number in range(1, len(names) + 1)]
    entries = [(colours[i], f"{names[i]} {share:.0%}") for i, share in enumerate(shares) if share > 0]
    if not entries:
        entries = [(PAPER, "no category found")]
    positions: list[tuple[int, int]] = []
    x, row = 8, 0
    for _, text in entries:
        entry_width = _SWATCH + 6 + round(typeface.getlength(text)) + 16
        if x > 8 and x + entry_width > width:
            x, row = 8, row + 1
        positions.append((x, row))
        x += entry_width
    picture = Image.new("RGB", (width, _ROW * (row + 1) + 8), PAPER)
    draw = ImageDraw.Draw(picture)
    for (colour, text), (left, line) in zip(entries, positions, strict=True):
        middle = 4 + line * _ROW + _ROW // 2
        swatch = (left, middle - _SWATCH // 2, left + _SWATCH, middle + _SWATCH // 2)
        draw.rectangle(swatch, fill=colour, outline=INK if colour != PAPER else PAPER)
        draw.text((left + _SWATCH + 6, middle), text, INK, typeface, anchor="lm")
    return picture


Kind = Literal["masks", "matches", "semantics", "maps"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""Kinds of pictures: masks and semantic regions and maps of both dates, and the matches between them."""

_DATES: Final = ("before", "after")
_GREY: Final = 128


@dataclass(frozen=True)
class DrawnMatches:
    """Matched and unmatched regions of a pair.

    Attributes:
        matched: (M, 2) region before, region after.
        unmatched_before: U1.
        unmatched_after: U2.
    """

    matched: NDArray[np.integer]
    unmatched_before: NDArray[np.integer]
    unmatched_after: NDArray[np.integer]


@dataclass(frozen=True)
class DrawnSemantics:
    """The J semantic regions and the semantic map of one date.

    Attributes:
        masks: (J, H, W) bool.
        boxes: (J, 4) left, top, right, bottom in pixels.
        categories: (J) category indices.
        scores: (J).
        map: (H, W): category index plus one, 0 for none.
    """

    masks: NDArray[np.bool_]
    boxes: NDArray[np.floating]
    categories: NDArray[np.integer]
    scores: NDArray[np.floating]
    map: NDArray[np.integer]


@dataclass(frozen=True)
class DrawnPair:
    """A pair with its regions, and with matches and semantics where available.

    Attributes:
        caption: Text below it on a sheet.
        regions: Images and masks of both dates.
        matches: Correspondences of the masks.
        semantics: Semantic regions and maps of both dates.
        names: Category names of `semantics`.
    """

    caption: str
    regions: tuple[DrawnRegions, DrawnRegions]
    matches: DrawnMatches | None = None
    semantics: tuple[DrawnSemantics, DrawnSemantics] | None = None
    names: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of pictures that can be drawn of the pair."""
        data = {"masks": True, "matches": self.matches, "semantics": self.semantics, "maps": self.semantics}
        return tuple(kind for kind in KINDS if data[kind])


def without_imagery(pair: DrawnPair) -> DrawnPair:
    """Return the pair with its images replaced by grey."""
    before, after = (replace(date, image=np.full_like(date.image, _GREY)) for date in pair.regions)
    return replace(pair, regions=(before, after))


def draw_pair(pair: DrawnPair, *, zoom: int | None = None) -> Image.Image:
    """Draw a pair, the earlier date on the left, in one row per available kind of picture.

    Args:
        pair: The pair.
        zoom: Factor by which the images are enlarged; None: to about 512 pixels.
    """
    rows = []
    for kind in pair.kinds:
        panels = _panels(pair, kind, zoom)
        rows.append(beside([titled(picture, title) for title, picture in panels], gap=GAP))
    if pair.semantics is not None:
        rows.append(draw_legend([each.map for each in pair.semantics], pair.names, rows[0].width))
    return stacked(rows, gap=0)


def draw_sheet(pairs: Sequence[DrawnPair], kinds: Sequence[Kind], *, zoom: int | None = 2) -> Image.Image:
    """Draw several pairs on one sheet, one row per pair, with their captions.

    Args:
        pairs: The pairs.
        kinds: Kinds of pictures of each pair, from left to right.
        zoom: Factor by which the images are enlarged; None: to about 512 pixels.

    Raises:
        ValueError: There are no pairs or kinds, or a pair lacks what a kind shows.
    """
    rows = [[panel for kind in kinds for panel in _panels(pair, kind, zoom)] for pair in pairs]
    pictures = [[titled(picture, title) for title, picture in row] for row in rows]
    sheet = contact_sheet(pictures, captions=[pair.caption for pair in pairs])
    if not {"semantics", "maps"} & set(kinds):
        return sheet
    maps = [each.map for pair in pairs for each in pair.semantics or ()]
    return stacked([sheet, draw_legend(maps, pairs[0].names, sheet.width)], gap=0)


def _panels(pair: DrawnPair, kind: Kind, zoom: int | None) -> list[tuple[str, Image.Image]]:
    """Return the titles and pictures of one kind."""
    if kind == "masks":
        return [
            (f"{date}: {len(each.masks)} masks", draw_masks(each.image, each.masks, zoom=zoom))
            for date, each in zip(_DATES, pair.regions, strict=True)
        ]
    if kind == "matches" and pair.matches is not None:
        matches = pair.matches
        title = (
            f"{len(matches.matched)} matched, {len(matches.unmatched_before)} vanished (-), "
            f"{len(matches.unmatched_after)} appeared (+)"
        )
        unmatched = matches.unmatched_before, matches.unmatched_after
        return [(title, draw_matches(*pair.regions, matches.matched, *unmatched, zoom=zoom))]
    if pair.semantics is None:
        raise ValueError(f"nothing is known of the {kind} of {pair.caption!r}")
    both = list(zip(_DATES, pair.regions, pair.semantics, strict=True))
    if kind == "semantics":
        return [
            (
                f"{date}: {len(s.masks)} semantic regions",
                draw_semantic_regions(r.image, s.masks, s.boxes, s.categories, s.scores, pair.names, zoom=zoom),
            )
            for date, r, s in both
        ]
    return [
        (f"{date}: semantic map", draw_semantic_map(r.image, s.map, pair.names, zoom=zoom, legend=False))
        for date, r, s in both
    ]
