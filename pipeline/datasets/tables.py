"""Tables of text as spreadsheets and scripts write them: what separates the cells, and what the header says.

The rules: a first line `sep=;` names the separator, as Excel has it. Else it is the first of comma, semicolon, tab and
`|` by which the header has all required columns. Spaces around cells are dropped; in the names of columns capitals do
not count, and a space or hyphen is an underscore. Rows of empty cells are passed over and counted. Columns without a
name that are empty, or number the rows (pandas' index), are passed over.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from pipeline.datasets.images import IMAGE_SUFFIXES
from pipeline.datasets.texts import shown
from pipeline.errors import DataError

SEPARATORS: Final = (",", ";", "\t", "|")
_NAMES: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "`|`"}
_SEP_LINE: Final = re.compile(r'^"?sep=(.)"?$', re.IGNORECASE)
_MISSING: Final = frozenset({"nan", "NaN", "NA", "N/A", "#N/A", "null", "NULL", "None", "<NA>"})
"""Cells that stand for an empty one, as pandas and databases write it."""
_INDEX: Final = re.compile(r"^(unnamed:_\d+)?$")
_INNER_SPACE: Final = re.compile(r"[\s\-]+")
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_FIRST_LINES: Final = 100
"""Lines in which the header is looked for."""
_HEADER_SHOWN: Final = 120


@dataclass(frozen=True)
class Table:
    """Content of a table.

    Attributes:
        columns: Names, in lower case.
        header: The header as it stands in the file.
        rows: Line in which a row begins, and its cells, one per column; an empty cell is "".
        blank: Lines of rows without content.
    """

    columns: tuple[str, ...]
    header: str
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    blank: tuple[int, ...] = field(default=())


def column_name(text: str) -> str:
    """Return a column's name in lower case, with underscores for spaces and hyphens."""
    return _INNER_SPACE.sub("_", text.strip().casefold())


def parse_table(text: str, path: Path, required: Sequence[str]) -> Table:
    """Parse a table; the rules are this module's.

    Args:
        text: Content of the file.
        path: The file, for errors.
        required: Columns without which a header is none.

    Raises:
        DataError: It has no such header, or a row does not fit it.
    """
    start, separator = _separator(text, path, required)
    lines = _split(text, separator, path, start)
    line, cells = next(lines)
    header = _line(text, line)
    columns = tuple(column_name(cell) for cell in cells)
    rows: list[tuple[int, tuple[str, ...]]] = []
    blank: list[int] = []
    for line, cells in lines:
        if not any(cells):
            blank.append(line)
            continue
        rows.append((line, _fitted(cells, columns, separator, header, f"{path}, line {line}")))
    kept = [number for number, name in enumerate(columns) if not _is_passed_over(number, name, rows)]
    _check_names([columns[number] for number in kept], rows, columns, header, path)
    return Table(
        columns=tuple(columns[number] for number in kept),
        header=header,
        rows=tuple((line, tuple(cells[number] for number in kept)) for line, cells in rows),
        blank=tuple(blank),
    )


def _separator(text: str, path: Path, required: Sequence[str]) -> tuple[int, str]:
    """Return how many lines precede the header or may, and the separator."""
    lines = _LINE_END.split(text, maxsplit=_FIRST_LINES)[:_FIRST_LINES]
    start = next((number for number, line in enumerate(lines) if line.strip()), 0)
    named = _SEP_LINE.match(lines[start].strip(" "))
    if named:
        start += 1
    candidates = (named[1],) if named else SEPARATORS
    headers = {}
    for candidate in candidates:
        headers[candidate] = _header(text, candidate, path, start)
        if set(required) <= set(headers[candidate]):
            return start, candidate
    raise _header_error(text, path, start, max(candidates, key=lambda each: len(headers[each])), required)


def _header(text: str, separator: str, path: Path, start: int) -> list[str]:
    """Return the names of the columns by one separator; none where the first row is not valid by it."""
    try:
        _, cells = next(_split(text, separator, path, start), (0, []))
    except DataError:
        return []
    return [column_name(cell) for cell in cells]


def _split(text: str, separator: str, path: Path, start: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows from line `start` on, each with its line in the file (from 1) and its cells without spaces."""
    stream = io.StringIO(text, newline="")
    for _ in range(start):
        stream.readline()
    reader = csv.reader(stream, delimiter=separator, skipinitialspace=True, strict=True)
    line = start + 1
    try:
        for cells in reader:
            if cells:
                yield line, [_cell(cell) for cell in cells]
            line = start + reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"not valid CSV: {error}: {shown(_line(text, line))}",
            where=f"{path}, line {line}",
            fix=_quote_advice(error),
        ) from error


def _cell(text: str) -> str:
    text = text.strip()
    return "" if text in _MISSING else text


def _line(text: str, number: int) -> str:
    lines = _LINE_END.split(text, maxsplit=number)
    return lines[number - 1].strip() if number <= len(lines) else ""


def _quote_advice(error: csv.Error) -> str:
    if "expected after" in str(error):
        return 'a cell that begins with a quote ends with one; within it a quote is written twice: "a ""new"" house"'
    return 'close the quote that opens in this row; within a quoted cell a quote is written twice: "a ""new"" house"'


def _fitted(cells: list[str], columns: Sequence[str], separator: str, header: str, where: str) -> tuple[str, ...]:
    """Return the cells of a row, one per column; further ones that are empty are dropped."""
    while len(cells) > len(columns) and not cells[-1]:
        cells.pop()
    if len(cells) == len(columns):
        return tuple(cells)
    row = separator.join(cells)
    other = next((each for each in SEPARATORS if each != separator and row.count(each) >= len(columns) - 1), None)
    if len(cells) < len(columns) and other is not None:
        fix = f"the row is separated by {_NAMES[other]}, the header by {_NAMES.get(separator, separator)}: use the same"
    elif len(cells) > len(columns):
        fix = f"put cells that hold {_NAMES.get(separator, separator)} in double quotes"
    else:
        fix = "fill in the missing cells, if only with their separators"
    raise DataError(
        f"a row has more or fewer cells than the header: {len(cells)} in {shown(row)}, "
        f"{len(columns)} in {shown(header)}",
        where=where,
        fix=fix,
    )


def _is_passed_over(number: int, name: str, rows: Sequence[tuple[int, tuple[str, ...]]]) -> bool:
    """Whether a column has no name and is empty, or numbers the rows."""
    if not _INDEX.match(name):
        return False
    cells = [cells[number] for _, cells in rows]
    return not any(cells) or cells == [str(row) for row in range(len(cells))]


def _check_names(
    names: Sequence[str],
    rows: Sequence[tuple[int, tuple[str, ...]]],
    columns: Sequence[str],
    header: str,
    path: Path,
) -> None:
    for name, count in Counter(names).items():
        if name == "":
            cell = next((cells[columns.index(name)] for _, cells in rows if cells[columns.index(name)]), "")
            raise DataError(
                f"a column has no name: the header reads {shown(header, _HEADER_SHOWN)}, the column {shown(cell)}",
                where=path,
                fix="name it in the header, or remove it",
            )
        if count > 1 and not name.startswith("caption"):
            raise DataError(
                f"the column `{name}` stands {count} times: the header reads {shown(header, _HEADER_SHOWN)}",
                where=path,
                fix="rename or remove one of them",
            )


def _header_error(text: str, path: Path, start: int, separator: str, required: Sequence[str]) -> DataError:
    rows = list(_first_rows(text, separator, path, start))
    line, cells = rows[0] if rows else (start + 1, [])
    header = _line(text, line)
    if any(_is_image(cell) for cell in cells):
        return DataError(
            f"the list of pairs has no header: its first line reads {shown(header, _HEADER_SHOWN)}",
            where=path,
            fix=f"write a first line with the names of the columns: {separator.join([*required, 'caption'])}",
        )
    missing = next(name for name in required if name not in [column_name(cell) for cell in cells])
    return DataError(
        f"the list of pairs has no column `{missing}`: its header reads {shown(header, _HEADER_SHOWN)}",
        where=path,
        fix=_header_advice(text, cells, rows[1][1] if len(rows) > 1 else [], required),
    )


def _header_advice(text: str, cells: Sequence[str], first_row: Sequence[str], required: Sequence[str]) -> str:
    if renamed := rename_advice(cells, first_row, required):
        return renamed
    for number, line in enumerate(_LINE_END.split(text, maxsplit=_FIRST_LINES)[1:_FIRST_LINES], start=2):
        if any(set(required) <= set(map(column_name, line.split(each))) for each in SEPARATORS):
            return f"remove what stands above line {number}, which names the columns"
    if len(cells) == 1 and any(set(required) <= set(map(column_name, cells[0].split(each))) for each in SEPARATORS):
        return "each line is one cell between quotes: remove these quotes"
    if text.lstrip().startswith(("{", "[")):
        return "this is JSON: name a file with one object per line .jsonl"
    if len(cells) < len(required):
        return "separate the columns by commas, semicolons or tabs, and name them in the first line"
    return f"name the columns in the first line: {', '.join(required)}, and optionally id, split, changed, caption"


def _first_rows(text: str, separator: str, path: Path, start: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the first two rows, as far as they are valid."""
    with suppress(DataError):
        yield from islice(_split(text, separator, path, start), 2)


def _is_image(cell: str) -> bool:
    return PurePosixPath(cell.replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES


_NOISE: Final = frozenset(
    {"image", "img", "im", "path", "file", "filename", "name", "picture", "date", "time", "t", "url"}
)
_DATES: Final = (
    ("a", "b"),
    ("0", "1"),
    ("1", "2"),
    ("pre", "post"),
    ("old", "new"),
    ("earlier", "later"),
    ("first", "second"),
    ("before", "after"),
    ("past", "present"),
    ("from", "to"),
)
"""How others name the two dates, the earlier one first."""
_YEAR: Final = re.compile(r"^(19|20)\d\d$")
_PARTS: Final = re.compile(r"[^\W\d_]+|\d+")


def rename_advice(columns: Sequence[str], first_row: Sequence[str], required: Sequence[str]) -> str | None:
    """Guess which columns are meant by `before` and `after`: by their names, or as the two that hold image files.

    Args:
        columns: As they stand in the header, or an object's keys.
        first_row: The cells below; may be empty.
        required: The names that are wanted, that of the earlier date first.

    Returns:
        What to rename; None where that cannot be told.
    """
    earlier, later = required
    if dates := pair_of_dates(columns):
        renames = [f"{shown(old)} to `{new}`" for old, new in zip(dates, required, strict=True) if old != new]
        return f"rename {' and '.join(renames)}"
    images = [column for column, cell in zip(columns, first_row, strict=False) if column and _is_image(cell)]
    if len(images) == 2:
        return f"rename {shown(images[0])} to `{earlier}` and {shown(images[1])} to `{later}`, if this is their order"
    return None


def pair_of_dates(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the two of some names of columns or folders that mean the earlier and the later date, if two do."""
    cores = {name: _core(name) for name in names}
    for one, two in _DATES:
        before = [name for name, core in cores.items() if core == one]
        after = [name for name, core in cores.items() if core == two]
        if len(before) == len(after) == 1:
            return before[0], after[0]
    years = sorted(name for name in names if _YEAR.match(name.strip()))
    return (years[0], years[1]) if len(years) == 2 else None


def _core(name: str) -> str:
    """Return a name without the words that say that it is one of images or times."""
    return "".join(part for part in _PARTS.findall(column_name(name)) if part not in _NOISE)
