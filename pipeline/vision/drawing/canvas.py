"""Drawing primitives: colours, an enlarged image to draw on, and the layout of several pictures.

The colours are distinct to readers with and without full colour vision (Okabe and Ito 2008, then Tol's muted ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.files import atomic_path

Colour = tuple[int, int, int]

ORANGE: Final[Colour] = (230, 159, 0)
SKY: Final[Colour] = (86, 180, 233)
GREEN: Final[Colour] = (0, 158, 115)
YELLOW: Final[Colour] = (240, 228, 66)
BLUE: Final[Colour] = (0, 114, 178)
VERMILION: Final[Colour] = (213, 94, 0)
PURPLE: Final[Colour] = (204, 121, 167)
GREY: Final[Colour] = (150, 150, 150)
INDIGO: Final[Colour] = (51, 34, 136)
OLIVE: Final[Colour] = (153, 153, 51)
WINE: Final[Colour] = (136, 34, 85)
ROSE: Final[Colour] = (204, 102, 119)
TEAL: Final[Colour] = (68, 170, 153)
SAND: Final[Colour] = (221, 204, 119)

INK: Final[Colour] = (32, 36, 42)
QUIET: Final[Colour] = (96, 104, 114)
PAPER: Final[Colour] = (255, 255, 255)

VANISHED: Final = VERMILION
"""Regions before without a counterpart after, U1; their sign is a minus."""
APPEARED: Final[Colour] = (40, 205, 150)
"""Regions after without a counterpart before, U2; their sign is a plus. Lighter than trees, which it may cover."""

REGIONS: Final[tuple[Colour, ...]] = (ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE)
"""Colours of masks, in cyclic order."""
MATCHES: Final[tuple[Colour, ...]] = (SKY, YELLOW, PURPLE, BLUE, ORANGE, TEAL, ROSE)
"""Colours of matches, in cyclic order, without those of vanished and appeared regions."""

_CATEGORIES: Final[tuple[Colour, ...]] = (
    VERMILION, SKY, GREEN, YELLOW, PURPLE, BLUE, ORANGE, GREY, WINE, TEAL, SAND, INDIGO, ROSE, OLIVE,
)  # fmt: skip
# Colours customary on maps; the first word that occurs in a category's name decides.
_CUSTOMARY: Final[tuple[tuple[str, Colour], ...]] = (
    ("pool", SKY),
    ("water", BLUE),
    ("pond", BLUE),
    ("river", BLUE),
    ("parking", PURPLE),
    ("pavement", PURPLE),
    ("road", GREY),
    ("building", VERMILION),
    ("house", VERMILION),
    ("playground", ORANGE),
    ("tree", GREEN),
    ("wood", GREEN),
    ("vegetation", GREEN),
    ("grass", OLIVE),
    ("bare", SAND),
)


def category_colours(names: Sequence[str]) -> tuple[Colour, ...]:
    """Return a colour per category: the customary one if it is unused, else the next unused one.

    There are fourteen colours; beyond that they repeat.
    """
    colours: dict[int, Colour] = {}
    for index, name in enumerate(names):
        customary = next((colour for word, colour in _CUSTOMARY if word in name.lower()), None)
        if customary is not None and customary not in colours.values():
            colours[index] = customary
    unused = [colour for colour in _CATEGORIES if colour not in colours.values()]
    remaining = [index for index in range(len(names)) if index not in colours]
    for position, index in enumerate(remaining):
        colours[index] = unused[position] if position < len(unused) else _CATEGORIES[index % len(_CATEGORIES)]
    return tuple(colours[index] for index in range(len(names)))


SIDE = 512
"""Length in pixels that the longer side of an image is enlarged to by default."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box = tuple[float, float, float, float]


def zoom_for(height: int, width: int) -> int:
    """Return the default zoom, an integer: 4 for an image of 128 pixels, 2 for 256, 1 from 512 on."""
    return max(1, SIDE // max(height, width))


def font(size: int) -> Font:
    """Return Pillow's built-in font."""
    return ImageFont.load_default(size)


def save_png(picture: Image.Image, path: Path) -> Path:
    """Write a picture as PNG, atomically and reproducibly.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG", compress_level=6)
    return path


class Canvas:
    """An enlarged image to draw on; all coordinates are pixels of the original image, whose corner is (0, 0).

    Args:
        image: RGB (H, W, 3) uint8.
        zoom: Factor by which to enlarge it; None: `zoom_for`.

    Attributes:
        zoom: Factor by which it is enlarged.
    """

    def __init__(self, image: NDArray[np.uint8], zoom: int | None = None) -> None:
        self.zoom = zoom or zoom_for(*image.shape[:2])
        height, width = image.shape[:2]
        size = (width * self.zoom, height * self.zoom)
        self._pixels = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        self._labels: list[Box] = []

    def fade(self, share: float) -> None:
        """Convert to grey mixed with `share` of white, so that later drawing stands out."""
        grey = self._pixels.mean(axis=2, keepdims=True) * (1 - share) + 255 * share
        self._pixels = np.repeat(np.rint(grey).astype(np.uint8), 3, axis=2)

    def tint(self, mask: NDArray[np.bool_], colour: Colour, opacity: float) -> None:
        """Blend a colour over a mask (H, W)."""
        inside = self._enlarged(mask)
        self._pixels[inside] = np.rint(self._pixels[inside] * (1 - opacity) + np.array(colour) * opacity)

    def outline(self, mask: NDArray[np.bool_], colour: Colour, width: int = 1, *, halo: bool = False) -> None:
        """Draw the inner edge of a mask (H, W), `width` picture pixels wide, with a dark line inside it if `halo`."""
        inside = self._enlarged(mask)
        core = inside
        for _ in range(width):
            core = _eroded(core)
        if halo:
            edge = core & ~_eroded(core)
            self._pixels[edge] = np.rint(self._pixels[edge] * 0.35)
        self._pixels[inside & ~core] = colour

    def sign(self, at: Sequence[float], kind: Literal["plus", "minus"], size: int = 16) -> None:
        """Draw a white plus or minus with a dark edge, centred at `at` (x, y), `size` picture pixels wide."""
        x, y = (round(float(value) * self.zoom) for value in at)
        half, thick = size // 2, size // 6
        bars = [(x - half, y - thick, x + half, y + thick)]
        if kind == "plus":
            bars.append((x - thick, y - half, x + thick, y + half))
        picture = self.picture()
        draw = ImageDraw.Draw(picture)
        for grow, colour in ((2, INK), (0, PAPER)):
            for left, top, right, bottom in bars:
                draw.rectangle((left - grow, top - grow, right + grow, bottom + grow), fill=colour)
        self._pixels = np.array(picture)

    def label(self, box: Sequence[float], text: str, colour: Colour, size: int = 14) -> bool:
        """Write a label at a corner of `box` or in its middle, where no other label is; return whether one was free.

        Args:
            box: Left, top, right, bottom.
            text: The label.
            colour: Background colour.
            size: Font size in picture pixels.
        """
        typeface = font(size)
        # All labels have the same height, with or without descenders.
        width, height = typeface.getlength(text) + 8, size + 5
        limit_y, limit_x = self._pixels.shape[:2]
        left, top, right, bottom = (value * self.zoom for value in box)
        corners = [
            (left, top),
            (right - width, bottom - height),
            (left, bottom - height),
            (right - width, top),
            ((left + right - width) / 2, (top + bottom - height) / 2),
        ]
        for x, y in corners:
            x0, y0 = min(max(x, 0.0), max(limit_x - width, 0.0)), min(max(y, 0.0), max(limit_y - height, 0.0))
            field = (x0, y0, x0 + width, y0 + height)
            if not any(_overlap(field, other) for other in self._labels):
                break
        else:
            return False
        self._labels.append(field)
        picture = self.picture()
        draw = ImageDraw.Draw(picture)
        draw.rectangle(field, fill=colour, outline=INK)
        draw.text((x0 + 4, y0 + height / 2), text, readable_on(colour), typeface, anchor="lm")
        self._pixels = np.array(picture)
        return True

    def picture(self) -> Image.Image:
        """Return the picture drawn so far, RGB."""
        return Image.fromarray(self._pixels)

    def _enlarged(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        height, width = (side // self.zoom for side in self._pixels.shape[:2])
        if mask.shape != (height, width):
            raise ValueError(f"a mask of {mask.shape} over an image of {(height, width)}")
        return mask.repeat(self.zoom, axis=0).repeat(self.zoom, axis=1)


def readable_on(colour: Colour) -> Colour:
    """Return dark ink or white, whichever contrasts more with `colour` (relative luminance, ITU-R BT.709)."""
    red, green, blue = colour
    return INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 120 else PAPER


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the mask without the pixels at its border or at the picture's edge."""
    padded = np.pad(mask, 1)
    core: NDArray[np.bool_] = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return core


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


_GAP = 12
_TITLE = 30
_CAPTION = 30


def beside(pictures: Sequence[Image.Image], *, gap: int = _GAP) -> Image.Image:
    """Place pictures side by side on white, aligned at the top."""
    size = (
        sum(p.width for p in pictures) + gap * max(len(pictures) - 1, 0),
        max((p.height for p in pictures), default=0),
    )
    sheet = Image.new("RGB", size, PAPER)
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet


def stacked(pictures: Sequence[Image.Image], *, gap: int = _GAP) -> Image.Image:
    """Place pictures one above the other on white, aligned at the left."""
    size = (
        max((p.width for p in pictures), default=0),
        sum(p.height for p in pictures) + gap * max(len(pictures) - 1, 0),
    )
    sheet = Image.new("RGB", size, PAPER)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + gap
    return sheet


def titled(picture: Image.Image, title: str) -> Image.Image:
    """Add a title above a picture, shortened to its width."""
    band = Image.new("RGB", (picture.width, _TITLE), PAPER)
    typeface = font(16)
    text = shortened(title, typeface, picture.width - 8)
    ImageDraw.Draw(band).text((picture.width // 2, _TITLE // 2), text, QUIET, typeface, anchor="mm")
    return stacked([band, picture], gap=0)


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], titles: Sequence[str] = (), captions: Sequence[str] = ()
) -> Image.Image:
    """Arrange pictures in a grid: a row per pair, a column per kind of picture.

    Args:
        rows: Pictures of each row.
        titles: Column titles; none, or one per column.
        captions: Captions below the rows; none, or one per row.

    Raises:
        ValueError: There are no rows, or not as many titles or captions as columns or rows.
    """
    if not rows or not all(rows):
        raise ValueError("a contact sheet needs at least one picture a row")
    if (titles and {len(titles)} != {len(row) for row in rows}) or (captions and len(captions) != len(rows)):
        raise ValueError(f"{len(titles)} titles and {len(captions)} captions for {len(rows)} rows of {len(rows[0])}")
    lines = []
    for index, row in enumerate(rows):
        first = [titled(p, title) for p, title in zip(row, titles, strict=True)] if titles and index == 0 else row
        line = beside(first)
        lines.append(stacked([line, _caption(captions[index], line.width)], gap=0) if captions else line)
    inner = stacked(lines)
    sheet = Image.new("RGB", (inner.width + 2 * _GAP, inner.height + 2 * _GAP), PAPER)
    sheet.paste(inner, (_GAP, _GAP))
    return sheet


def shortened(text: str, typeface: Font, width: float) -> str:
    """Drop whole words at the end of a text until it is no wider than `width` pixels."""
    while typeface.getlength(text) > width and " " in text.removesuffix(" …"):
        text = text.removesuffix(" …").rsplit(" ", 1)[0] + " …"
    return text


def _caption(text: str, width: int) -> Image.Image:
    band = Image.new("RGB", (width, _CAPTION), PAPER)
    typeface = font(17)
    ImageDraw.Draw(band).text((2, _CAPTION // 2), shortened(text, typeface, width), INK, typeface, anchor="lm")
    return band
