"""A contact sheet of pairs: before, after and change mask, with a caption under each row."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.datasets.records import SPLITS, Split
from pipeline.datasets.world.pair import make_pair, read_objects, read_picture
from pipeline.datasets.world.settings import WorldSettings
from pipeline.errors import DataError
from pipeline.files import atomic_path

_CELL = 256
_GAP = 10
_TEXT = 34
_HEADER = 30
_INK, _QUIET, _PAPER, _MARK = (32, 36, 42), (110, 118, 128), (255, 255, 255), (214, 69, 44)
_SPREAD = (
    "houses",
    "road and houses",
    "large building",
    "trees removed",
    "houses demolished",
    "road",
    "parking lot",
    "pond",
    "houses replaced",
    "playground",
    "swimming pool",
    "road extended",
    "grassland removed",
)
"""Order in which kinds of events are shown; the last row is an unchanged pair."""

Row = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_], str]


def contact_sheet(source: Path | WorldSettings, rows: int, output: Path, *, split: Split = "train") -> Path:
    """Draw `rows` pairs of different kinds, the last one unchanged and differing strongly, two pairs side by side.

    Args:
        source: Folder of a generated world, or settings, whose pairs are made first.
        rows: Number of pairs.
        output: PNG to write.
        split: Split that the pairs are taken from.

    Raises:
        DataError: The world has no pairs in this split.
        OutputError: The picture cannot be written.
    """
    pairs = _from_folder(source, split, rows) if isinstance(source, Path) else _from_settings(source, split, rows)
    if not pairs:
        raise DataError(f"the world has no {split} pairs to show", fix=f"choose one of {', '.join(SPLITS)}")
    columns = 2 if len(pairs) > 1 else 1
    lines = -(-len(pairs) // columns)
    width = columns * (3 * _CELL + 2 * _GAP) + (columns + 1) * 2 * _GAP
    sheet = Image.new("RGB", (width, _HEADER + lines * (_CELL + _TEXT + _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    small, font = ImageFont.load_default(15), ImageFont.load_default(18)
    for column in range(columns):
        left = 2 * _GAP + column * (3 * _CELL + 4 * _GAP)
        for cell, title in enumerate(("before", "after", "change")):
            draw.text((left + cell * (_CELL + _GAP) + _CELL // 2, _HEADER // 2 + 2), title, _QUIET, small, anchor="mm")
    for index, (before, after, change, caption) in enumerate(pairs):
        line, column = divmod(index, columns)
        left = 2 * _GAP + column * (3 * _CELL + 4 * _GAP)
        top = _HEADER + line * (_CELL + _TEXT + _GAP)
        for cell, picture in enumerate((before, after, _mask_picture(change, after))):
            tile = Image.fromarray(picture).resize((_CELL, _CELL), Image.Resampling.BICUBIC)
            sheet.paste(tile, (left + cell * (_CELL + _GAP), top))
        middle = left + (3 * _CELL + 2 * _GAP) // 2
        draw.text((middle, top + _CELL + _TEXT // 2), _truncated(caption, font, 3 * _CELL), _INK, font, anchor="mm")
    with atomic_path(output) as temporary:
        sheet.save(temporary, "PNG", optimize=True)
    return output


def _truncated(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    while font.getlength(caption) > width:
        caption = caption.removesuffix(" …").rsplit(" ", 1)[0] + " …"
    return caption


def _mask_picture(change: NDArray[np.bool_], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the change mask in colour over a pale version of the second picture."""
    grey = after.mean(axis=2, keepdims=True)
    pale = 225 + 0.12 * (grey - grey.mean()) + np.zeros(3)
    picture: NDArray[np.uint8] = np.where(change[..., None], np.array(_MARK), np.clip(pale, 0, 255)).astype(np.uint8)
    return picture


def _choose(kinds: Sequence[tuple[int, Set[str]]], rows: int) -> list[int]:
    """Choose indices so that kinds follow `_SPREAD`; one unchanged pair goes last."""
    chosen: list[int] = []
    for kind in _SPREAD:
        match = next((index for index, events in kinds if events == {kind} and index not in chosen), None)
        if match is not None and len(chosen) < rows - 1:
            chosen.append(match)
    rest = [index for index, events in kinds if events and index not in chosen]
    chosen += rest[: rows - 1 - len(chosen)]
    return chosen


def _from_settings(settings: WorldSettings, split: Split, rows: int) -> list[Row]:
    total = min(getattr(settings, split), 12 * rows)
    pairs = [make_pair(settings, split, index) for index in range(total)]
    kinds = [(index, frozenset(event.kind for event in pair.events)) for index, pair in enumerate(pairs)]
    changed = [
        (pairs[i].images[0], pairs[i].images[1], pairs[i].change, _longest_fitting([c.text for c in pairs[i].captions]))
        for i in _choose(kinds, rows)
    ]
    unchanged = [pair for pair in pairs if not pair.changed]
    return changed + _most_different(
        [(p.images[0], p.images[1], p.change, p.captions[2].text) for p in unchanged], rows - len(changed)
    )


def _from_folder(folder: Path, split: Split, rows: int) -> list[Row]:
    records = list(read_objects(folder, split).values())[: 12 * rows]
    kinds = [(index, frozenset(event["kind"] for event in record["events"])) for index, record in enumerate(records)]
    changed = [
        _load(folder, split, records[i]["id"], _longest_fitting(records[i]["captions"])) for i in _choose(kinds, rows)
    ]
    unchanged = [record for record in records if not record["changed"]]
    return changed + _most_different(
        [_load(folder, split, record["id"], record["captions"][2]) for record in unchanged], rows - len(changed)
    )


def _load(folder: Path, split: Split, name: str, caption: str) -> Row:
    before, after = (read_picture(folder, "images", split, date, f"{name}.png") for date in "AB")
    change = read_picture(folder, "change", split, f"{name}.png")
    return before, after, change > 0, caption


def _most_different(rows: list[Row], count: int) -> list[Row]:
    """Return the unchanged pairs whose pictures differ most."""
    ranked = sorted(rows, key=lambda row: -float(np.abs(row[0].astype(np.int16) - row[1]).mean()))
    return ranked[: max(count, 0)]


def _longest_fitting(captions: list[str]) -> str:
    """Return the longest caption that fits under its pictures."""
    fitting = [caption for caption in captions if len(caption) <= 90]
    return max(fitting or captions, key=len)
