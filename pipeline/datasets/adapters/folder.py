"""Own pairs: two folders of images with the same stems, or a list of pairs as CSV or JSONL.

Pairs that come without splits get them at random.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.datasets.adapters.base import DatasetAdapter, Profile, find_captions
from pipeline.datasets.audit import Audit
from pipeline.datasets.caption_files import CaptionEntry, parse_flag, parse_split, read_captions
from pipeline.datasets.listing import Listing, join, shared_layout
from pipeline.datasets.paths import check_root, clean_text, inner_path, refuse_outside
from pipeline.datasets.records import Pair, Split
from pipeline.datasets.settings import DatasetSettings, FolderSettings
from pipeline.datasets.unread_files import images_not_listed
from pipeline.errors import DataError, SettingsError
from pipeline.files import sha256_bytes


def draw_splits(names: Iterable[str], val_share: float, test_share: float, seed: int) -> dict[str, Split]:
    """Give each pair a split, at random but by name: a pair added later moves few of the others.

    Args:
        names: Ids of the pairs, in any order.
        val_share: Share in the validation split, rounded to whole pairs.
        test_share: Share in the test split, rounded to whole pairs; at least one pair is left for training.
        seed: Same seed and same names, same splits.

    Returns:
        Split of each name.
    """
    order = sorted(set(names), key=lambda name: sha256_bytes(f"{seed}:{name}".encode()))
    test = min(round(test_share * len(order)), max(len(order) - 1, 0))
    val = min(round(val_share * len(order)), max(len(order) - 1 - test, 0))
    return {name: "test" if rank < test else "val" if rank < test + val else "train" for rank, name in enumerate(order)}


_FIX: Final = (
    "columns or keys: before, after, and optionally id, split, changed, caption (several: caption_1, caption_2 …)"
)
_COLUMNS: Final = frozenset({"id", "before", "after", "split", "changed"})


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
    unknown = sorted(name for name in names if name not in _COLUMNS and not name.startswith("caption"))
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


def list_pairs(settings: DatasetSettings, audit: Audit) -> Listing:
    """List the pairs; see `ListPairs`.

    Without `captions`: the images of two folders, joined by stem. With a caption JSON: the same, with its captions.
    With a CSV or JSONL: the pairs that it lists.
    """
    root = Path(settings.root)
    check_root(root)
    if settings.captions is None:
        return _two_folders(settings, audit, None)
    captions = find_captions(settings, [])
    if captions.suffix.lower() == ".json":
        return _two_folders(settings, audit, captions)
    return _listed(root, settings.folder, captions, audit)


def _two_folders(settings: DatasetSettings, audit: Audit, captions: Path | None) -> Listing:
    root, folder = Path(settings.root), settings.folder
    layout = shared_layout(root, folder.before, folder.after, audit)
    if captions is None:
        stems = sorted(layout.before["train"].keys() & layout.after["train"].keys())
        entries = [CaptionEntry(stem) for stem in stems]
    else:
        entries = read_captions(captions)
    splits = _splits(folder, {entry.stem: entry.split or entry.folder_split for entry in entries}, captions or root)
    assigned = [CaptionEntry(e.stem, splits[e.stem], None, e.captions, e.changed) for e in entries]
    return join(assigned, layout, audit, captions or root)


def _listed(root: Path, folder: FolderSettings, path: Path, audit: Audit) -> Listing:
    rows: dict[str, Row] = {}
    listed = set[str]()
    for row in read_rows(path):
        listed |= {row.before, row.after}
        if row.id in rows:
            audit.note("duplicate-name", f"{row.id} in {path.name}")
        else:
            rows[row.id] = row
    splits = _splits(folder, {row.id: row.split for row in rows.values()}, path)
    listing = Listing()
    for row in rows.values():
        split = splits[row.id]
        missing = [name for name in (row.before, row.after) if not (root / name).is_file()]
        if missing:
            audit.note("caption-without-image", f"{split} {row.id}: {', '.join(missing)}")
            listing.left_out.append(CaptionEntry(row.id, split, None, row.captions, row.changed))
            continue
        for name in (row.before, row.after):
            refuse_outside(root / name, root)
        listing.pairs.append(
            Pair(
                id=row.id,
                split=split,
                before=row.before,
                after=row.after,
                captions=row.captions,
                changed=row.changed,
            )
        )
    for name in images_not_listed(root, listed):
        audit.note("file-not-taken", f"{name}: {path.name} does not name it")
    return listing


def _splits(folder: FolderSettings, given: dict[str, Split | None], where: Path) -> dict[str, Split]:
    if folder.split == "seeded":
        return draw_splits(given, folder.val_share, folder.test_share, folder.seed)
    if folder.split != "column":
        return dict.fromkeys(given, folder.split)
    if where.is_dir():
        raise SettingsError(
            "prepare.folder.split is `column`, but two folders have no split column",
            where="prepare.folder.split",
            fix="set it to seeded, train, val or test, or name a list in prepare.captions",
        )
    without = next((name for name, split in given.items() if split is None), None)
    if without is not None:
        raise DataError(
            f"{without} has no split", where=where, fix="fill the column `split`, or set prepare.folder.split: seeded"
        )
    return {name: split for name, split in given.items() if split is not None}


ADAPTER = DatasetAdapter(
    profile=Profile(
        name="folder",
        title="your own",
        layout="two folders of same-named images, or a CSV or JSONL of `before,after[,captions…]`",
        recipe="mini",
        # Own pairs may be few: every word counts.
        settings={"prepare": {"vocabulary": {"min_count": 1}}, "graph": {"build": {"min_count": 1}}},
    ),
    list_pairs=list_pairs,
)
