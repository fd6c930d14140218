"""Pictures put together: side by side, one above the other, and as a contact sheet with titles."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from pipeline.vision.drawing.canvas import Font, font
from pipeline.vision.drawing.palette import INK, PAPER, QUIET

_GAP = 12
_TITLE = 30
_CAPTION = 30


def beside(pictures: Sequence[Image.Image], *, gap: int = _GAP) -> Image.Image:
    """Put pictures side by side, tops in line, on white."""
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
    """Put pictures one above the other, left edges in line, on white."""
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
    """Put a title above a picture, as much of it as there is room for."""
    band = Image.new("RGB", (picture.width, _TITLE), PAPER)
    letters = font(16)
    text = shortened(title, letters, picture.width - 8)
    ImageDraw.Draw(band).text((picture.width // 2, _TITLE // 2), text, QUIET, letters, anchor="mm")
    return stacked([band, picture], gap=0)


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], titles: Sequence[str] = (), captions: Sequence[str] = ()
) -> Image.Image:
    """Put rows of pictures into one: a row per pair, a column per kind of picture.

    Args:
        rows: Pictures of each row.
        titles: Above the columns; none, or one per column.
        captions: Under the rows; none, or one per row.

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


def shortened(text: str, letters: Font, width: float) -> str:
    """Cut whole words off the end of a text until it is no wider than `width` pixels."""
    while letters.getlength(text) > width and " " in text.removesuffix(" …"):
        text = text.removesuffix(" …").rsplit(" ", 1)[0] + " …"
    return text


def _caption(text: str, width: int) -> Image.Image:
    band = Image.new("RGB", (width, _CAPTION), PAPER)
    letters = font(17)
    ImageDraw.Draw(band).text((2, _CAPTION // 2), shortened(text, letters, width), INK, letters, anchor="lm")
    return band
