"""Reads a caption by words alone: what it claims about place and number, without the grammar that wrote it."""

from __future__ import annotations

import re

NUMBERS = {"a": (1, 1), "one": (1, 1), "two": (2, 2), "three": (3, 3), "four": (4, 4)}
NUMBERS |= {word: (3, 6) for word in ("several", "some", "a few")}
NUMBERS |= {word: (7, 99) for word in ("many", "a lot of", "lots of")}

_HOUSES = re.compile(
    r"\b(a few|a lot of|lots of|a|one|two|three|four|several|some|many) (?:new )?(?:houses?|villas?)\b"
)
_ROWS = re.compile(r"\b(a row|two rows|three rows|several rows) of (?:new )?(?:houses|villas|buildings)\b")
_ROW_HOUSES = {"a row": (4, 99), "two rows": (6, 99), "three rows": (9, 99), "several rows": (9, 99)}


def claimed_houses(caption: str) -> tuple[int, int] | None:
    """Return least and greatest number of houses that the caption speaks of."""
    if rows := _ROWS.search(caption):
        return _ROW_HOUSES[rows.group(1)]
    if houses := _HOUSES.search(caption):
        return NUMBERS[houses.group(1)]
    return None


def claimed_place(caption: str) -> tuple[str, str] | None:
    """Return (horizontal, vertical) of the place that the caption names: left, right, top, bottom, center or ""."""
    for vertical, words in (("top", "top|upper"), ("bottom", "bottom|lower")):
        if match := re.search(rf"\b(?:{words}) (left|right)\b", caption):
            return match.group(1), vertical
    if match := re.search(r"\bat the (top|bottom)\b", caption):
        return "", match.group(1)
    if match := re.search(r"\bon the (left|right)\b", caption):
        return match.group(1), ""
    if re.search(r"\bin the (center|middle)\b", caption):
        return "center", "center"
    return None
