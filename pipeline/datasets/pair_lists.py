"""Lists of own pairs: CSV with a header, or one JSON object per line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.datasets.entries import parse_flag, parse_split
from pipeline.datasets.paths import clean_text, inner_path
from pipeline.datasets.records import Split
from pipeline.errors import DataError

_FIX: Final = (
    "columns or keys: before, after, and optionally id, split, changed, caption (several: caption_1, caption_2 …)"
)
_KNOWN: Final = frozenset({"id", "before", "after", "split", "changed"})


@dataclass(frozen=True)
class Row:
    """One pair of a list; paths are relative to the data set's root."""

    id: str
    before: str
    after: str
    captions: tuple[str, ...]
    split: Split | None
    changed: bool | None


def read_rows(path: Path) -> list[Row]:
    """Read a list of pairs.

    CSV has a header; JSONL has one object per line, whose captions may be a list. Columns: `before`, `after`; optional
    `id` (default: the stem of `before`), `split`, `changed`, and captions in any columns whose names begin with
    `caption`, of which empty ones are passed over.

    Raises:
        DataError: The file is missing, not UTF-8, of another schema, or a path in it leaves the root.
    """
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise DataError(
            "a list of pairs is a .csv, .jsonl or caption .json file", where=path, fix="set prepare.captions"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read the list of pairs: {error.strerror or error}", where=path) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8: byte {error.start} cannot be decoded", where=path, fix="save it as UTF-8"
        ) from error
    records = _csv(text, path) if path.suffix.lower() == ".csv" else _jsonl(text, path)
    rows = [_row(record, where) for where, record in records]
    if not rows:
        raise DataError("the list of pairs is empty", where=path, fix=_FIX)
    return rows


def _csv(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_columns(reader.fieldnames or (), str(path))
        for record in reader:
            where = f"{path}, line {reader.line_num}"
            if None in record or None in record.values():
                raise DataError(
                    "a row has more or fewer cells than the header", where=where, fix="quote cells with commas"
                )
            yield where, record
    except csv.Error as error:
        raise DataError(f"not valid CSV: {error}", where=f"{path}, line {reader.line_num}") from error


def _jsonl(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError("not a JSON object", where=where, fix="write one JSON object per line") from error
        if not isinstance(record, dict):
            raise DataError("not a JSON object", where=where, fix="write one JSON object per line")
        _check_columns(record, where)
        yield where, record


def _check_columns(names: Any, where: str) -> None:
    unknown = sorted(name for name in names if name not in _KNOWN and not name.startswith("caption"))
    missing = [name for name in ("before", "after") if name not in names]
    if missing or unknown:
        what = f"no column `{missing[0]}`" if missing else f"unknown column `{unknown[0]}`"
        raise DataError(f"the list of pairs has {what}", where=where, fix=_FIX)


def _row(record: Mapping[str, Any], where: str) -> Row:
    before, after = (_path(record[name], name, where) for name in ("before", "after"))
    identity = record.get("id")
    if identity not in (None, "") and not isinstance(identity, str | int):
        raise DataError("`id` is no text", where=where, fix=_FIX)
    name = inner_path(str(identity), where).as_posix() if identity not in (None, "") else inner_path(before, where).stem
    captions: list[str] = []
    for column in sorted((column for column in record if column.startswith("caption")), key=_by_number):
        cell = record[column]
        for caption in cell if isinstance(cell, list) else [cell]:
            if not isinstance(caption, str):
                raise DataError(f"`{column}` is neither a text nor a list of texts", where=where, fix=_FIX)
            # An empty cell of a CSV is a column that this pair does not use; in a list it is a mistake to be noted.
            if caption.strip() or isinstance(cell, list):
                captions.append(clean_text(caption, where))
    return Row(
        id=name,
        before=before,
        after=after,
        captions=tuple(captions),
        split=parse_split(record.get("split"), where),
        changed=parse_flag(record.get("changed"), where),
    )


def _path(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"`{name}` is no path", where=where, fix=_FIX)
    return inner_path(value, where).as_posix()


def _by_number(column: str) -> tuple[str, int]:
    stem = column.rstrip("0123456789")
    return stem, int(column[len(stem) :] or 0)
