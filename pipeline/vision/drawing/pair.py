"""All that is known of a pair's regions in one picture, and of several pairs on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.vision.drawing.masks import draw_masks
from pipeline.vision.drawing.matches import GAP, DrawnRegions, draw_matches
from pipeline.vision.drawing.semantics import draw_legend, draw_semantic_map, draw_semantic_regions
from pipeline.vision.drawing.sheet import beside, contact_sheet, stacked, titled

Kind = Literal["masks", "matches", "semantics", "maps"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""masks: of both dates; matches: correspondences; semantics: semantic regions of both dates; maps: semantic maps."""

_DATES: Final = ("before", "after")
_GREY: Final = 128


@dataclass(frozen=True)
class DrawnMatches:
    """What a matcher says of a pair.

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
        categories: (J) numbers of the categories.
        scores: (J).
        map: (H, W): number of the category plus one, 0 for none.
    """

    masks: NDArray[np.bool_]
    boxes: NDArray[np.floating]
    categories: NDArray[np.integer]
    scores: NDArray[np.floating]
    map: NDArray[np.integer]


@dataclass(frozen=True)
class DrawnPair:
    """A pair and what is known of its regions.

    Attributes:
        caption: What is written under it on a sheet.
        regions: Images and masks of both dates.
        matches: Correspondences of the masks.
        semantics: Semantic regions and maps of both dates.
        names: All categories of `semantics`.
    """

    caption: str
    regions: tuple[DrawnRegions, DrawnRegions]
    matches: DrawnMatches | None = None
    semantics: tuple[DrawnSemantics, DrawnSemantics] | None = None
    names: tuple[str, ...] = ()

    @property
    def known(self) -> tuple[Kind, ...]:
        """The kinds of pictures that can be drawn of it."""
        there = {"masks": True, "matches": self.matches, "semantics": self.semantics, "maps": self.semantics}
        return tuple(kind for kind in KINDS if there[kind])


def without_imagery(pair: DrawnPair) -> DrawnPair:
    """Return the pair with grey in place of its images."""
    before, after = (replace(date, image=np.full_like(date.image, _GREY)) for date in pair.regions)
    return replace(pair, regions=(before, after))


def draw_pair(pair: DrawnPair, *, zoom: int | None = None) -> Image.Image:
    """Draw a pair, the earlier date on the left, in as many rows as there is something to tell of.

    Args:
        pair: What is drawn.
        zoom: By how much the images are enlarged; None: to about 512 pixels.
    """
    rows = []
    for kind in pair.known:
        panels = _panels(pair, kind, zoom)
        rows.append(beside([titled(picture, title) for title, picture in panels], gap=GAP))
    if pair.semantics is not None:
        rows.append(draw_legend([each.map for each in pair.semantics], pair.names, rows[0].width))
    return stacked(rows, gap=0)


def draw_sheet(pairs: Sequence[DrawnPair], kinds: Sequence[Kind], *, zoom: int | None = 2) -> Image.Image:
    """Draw several pairs on one sheet, a row each, with their captions.

    Args:
        pairs: What is drawn.
        kinds: Which pictures of each, from left to right.
        zoom: By how much the images are enlarged; None: to about 512 pixels.

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
    """Return the pictures of one kind, each with its title."""
    if kind == "masks":
        return [
            (f"{date}: {len(each.masks)} masks", draw_masks(each.image, each.masks, zoom=zoom))
            for date, each in zip(_DATES, pair.regions, strict=True)
        ]
    if kind == "matches" and pair.matches is not None:
        found = pair.matches
        title = (
            f"{len(found.matched)} matched, {len(found.unmatched_before)} vanished (-), "
            f"{len(found.unmatched_after)} appeared (+)"
        )
        unmatched = found.unmatched_before, found.unmatched_after
        return [(title, draw_matches(*pair.regions, found.matched, *unmatched, zoom=zoom))]
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
