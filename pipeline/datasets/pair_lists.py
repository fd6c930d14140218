"""Lists of pairs: CSV and other separated tables, and JSON Lines, whose rows name two images, captions and more."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.datasets.caption_files import close_name, parse_flag, parse_split
from pipeline.datasets.paths import clean_text, inner_path
from pipeline.datasets.records import Split
from pipeline.datasets.tables import column_name, parse_table, rename_advice
from pipeline.datasets.texts import keys_of, read_text, shown
from pipeline.errors import DataError

JSON_LINES: Final = frozenset({".jsonl", ".ndjson"})
LIST_SUFFIXES: Final = JSON_LINES | {".csv", ".tsv", ".tab", ".txt"}
"""Endings of lists of pairs; those that are no JSON Lines are tables."""

_REQUIRED: Final = ("before", "after")
_COLUMNS: Final = ("id", "before", "after", "split", "changed")
_CAPTION: Final = "caption"
_FIX: Final = (
    "columns or keys: before, after, and optionally id, split, changed, caption (several: caption_1, caption_2 …)"
)
_OTHER_NAMES: Final = {
    "caption": ("text", "texts", "description", "descriptions", "sentence", "sentences", "raw", "comment", "label"),
    "split": ("set", "subset", "partition", "fold", "phase"),
    "changed": ("change", "changeflag", "change_flag", "flag", "is_changed", "has_change"),
    "id": ("name", "pair", "pair_id", "key", "stem", "filename", "index"),
}
"""What others call the optional columns."""

Record = Sequence[tuple[str, Any]]
"""Columns or keys of a row with their values, in order; caption columns may stand more than once."""


@dataclass(frozen=True)
class Row:
    """One pair of a list.

    Attributes:
        line: Where it begins in the file, from 1.
        id: The id that the list gives it, if any.
        before: Path of the earlier image, relative to the data set's root.
        after: Path of the later image.
        captions: Its captions, white space normalised.
        split: Its split, if given.
        changed: Its change flag, if given.
    """

    line: int
    id: str | None
    before: str
    after: str
    captions: tuple[str, ...]
    split: Split | None
    changed: bool | None


@dataclass(frozen=True)
class PairList:
    """Content of a list of pairs.

    Attributes:
        rows: In file order.
        blank: Lines of rows without content, which are passed over.
    """

    rows: tuple[Row, ...]
    blank: tuple[int, ...] = ()


def read_pair_list(path: Path, root: Path) -> PairList:
    """Read a list of pairs.

    A table (see `pipeline.datasets.tables`) has a header; JSON Lines have one object per line, whose captions may be a
    list. Columns: `before`, `after`; optional `id`, `split`, `changed`, and captions in any columns whose names begin
    with `caption`, of which empty ones are passed over.

    Args:
        path: The list.
        root: The data set's root, which its paths are relative to; an absolute path within it is taken as such.

    Raises:
        DataError: The file is missing, empty, in another encoding, of another schema, or a path in it leaves the root.
        UnreadableError: It cannot be read.
    """
    text = read_text(path, fix="set prepare.captions")
    blank: tuple[int, ...] = ()
    if path.suffix.lower() in JSON_LINES:
        rows = [_row(record, line, path, root) for line, record in _json_lines(text, path)]
    else:
        table = parse_table(text, path, _REQUIRED)
        header = f"its header reads {shown(table.header, 120)}"
        _check_columns(table.columns, header, str(path))
        rows = [_row(list(zip(table.columns, cells, strict=True)), line, path, root) for line, cells in table.rows]
        blank = table.blank
    if not rows:
        raise DataError("the list of pairs is empty: it has no row below its header", where=path, fix=_FIX)
    return PairList(tuple(rows), blank)


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where, fix = f"{path}, line {number}", "write one JSON object per line"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not text.lstrip().startswith(("{", "[")):
                fix = "the file is no JSON: name a table .csv"
            elif _is_json(text):
                fix = "the file is one JSON document: write one JSON object per line, without line breaks within it"
            raise DataError(f"not a JSON object: {shown(line.strip())}", where=where, fix=fix) from error
        if not isinstance(values, dict):
            raise DataError(f"not a JSON object but {keys_of(values)}", where=where, fix=fix)
        record = [(column_name(key), value) for key, value in values.items()]
        _check_columns([name for name, _ in record], f"it has {keys_of(values).removeprefix('an object with ')}", where)
        yield number, record


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _check_columns(names: Sequence[str], says: str, where: str) -> None:
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        fix = rename_advice(names, [], _REQUIRED) or _FIX
        raise DataError(f"the list of pairs has no column `{missing[0]}`: {says}", where=where, fix=fix)
    unknown = next((name for name in names if name not in _COLUMNS and not name.startswith(_CAPTION)), None)
    if unknown is not None:
        meant = next((name for name, others in _OTHER_NAMES.items() if unknown in others and name not in names), None)
        meant = meant or close_name(unknown, (*_COLUMNS, _CAPTION))
        fix = f"rename it to `{meant}`, if that is meant, or remove it" if meant else f"remove it; {_FIX}"
        raise DataError(f"the list of pairs has the unknown column {shown(unknown)}: {says}", where=where, fix=fix)


def _row(record: Record, line: int, path: Path, root: Path) -> Row:
    where = f"{path}, line {line}"
    values = dict(record)
    identity = _present(values.get("id"))
    if identity is not None and (isinstance(identity, bool) or not isinstance(identity, str | int)):
        raise DataError(f"`id` is no text: {shown(identity)}", where=where, fix="write it as a text or whole number")
    return Row(
        line=line,
        id=None if identity is None else inner_path(str(identity), where).as_posix(),
        before=_path(values["before"], "before", where, root),
        after=_path(values["after"], "after", where, root),
        captions=tuple(_captions(record, where)),
        split=parse_split(_present(values.get("split")), where),
        changed=parse_flag(_present(values.get("changed")), where),
    )


def _present(value: Any) -> Any:
    """Return a value, None for one that stands for an absent one: an empty text, NaN."""
    absent = value == "" or (isinstance(value, float) and math.isnan(value))
    return None if absent else value


def _path(value: Any, name: str, where: str, root: Path) -> str:
    if _present(value) is None:
        raise DataError(f"the row names no image in `{name}`", where=where, fix=f"fill in `{name}`, or remove the row")
    if not isinstance(value, str):
        raise DataError(f"`{name}` is no path: {shown(value)}", where=where, fix="write the path as a text")
    return inner_path(value, where, root).as_posix()


def _captions(record: Record, where: str) -> Iterator[str]:
    """Yield the captions of all caption columns, those with numbers in the order of these."""
    columns = [(name, value) for name, value in record if name.startswith(_CAPTION)]
    for name, value in sorted(columns, key=lambda column: _by_number(column[0])):
        cell = _as_list(value) if isinstance(value, str) else _present(value)
        for caption in cell if isinstance(cell, list) else [cell]:
            if caption is None and not isinstance(cell, list):
                continue
            if not isinstance(caption, str):
                raise DataError(
                    f"`{name}` is neither a text nor a list of texts: {shown(value)}",
                    where=where,
                    fix="write captions as texts between double quotes",
                )
            # An empty cell of a table is a column that this pair does not use; in a list it is a mistake to be noted.
            if caption.strip() or isinstance(cell, list):
                yield clean_text(caption, where)


def _as_list(text: str) -> str | list[Any]:
    """Return the texts of a cell that holds a list of them, as pandas writes one; other cells as they are."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            values = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            return values
    return text


def _by_number(column: str) -> tuple[str, int, str]:
    stem = column.rstrip("0123456789")
    digits = column[len(stem) :].lstrip("0")
    return stem, len(digits), digits
