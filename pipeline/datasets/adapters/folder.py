"""Own pairs: two folders of images with the same stems, or a list of pairs (`pipeline.datasets.pair_lists`).

Pairs that come without splits get them at random.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from pipeline.datasets.adapters.base import DatasetAdapter, Profile, find_captions
from pipeline.datasets.audit import Audit
from pipeline.datasets.caption_files import CaptionEntry, read_captions
from pipeline.datasets.links import lost_link
from pipeline.datasets.listing import Listing, join, shared_layout
from pipeline.datasets.nearest import FolderNames
from pipeline.datasets.pair_lists import LIST_SUFFIXES, Row, read_pair_list
from pipeline.datasets.paths import check_root
from pipeline.datasets.records import Pair, Split
from pipeline.datasets.settings import DatasetSettings, FolderSettings
from pipeline.datasets.tables import pair_of_dates
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


def list_pairs(settings: DatasetSettings, audit: Audit) -> Listing:
    """List the pairs; see `ListPairs`.

    Without `captions`: the images of two folders, joined by stem. With a caption JSON: the same, with its captions.
    With a list (CSV and the like, JSON Lines): the pairs that it lists.
    """
    root = Path(settings.root)
    check_root(root)
    if settings.captions is None:
        return _two_folders(settings, audit, None)
    captions = find_captions(settings, [])
    suffix = captions.suffix.lower()
    if suffix == ".json":
        return _two_folders(settings, audit, captions)
    if suffix not in LIST_SUFFIXES:
        raise DataError(
            f"a list of pairs is a .csv, .jsonl or caption .json file, not {captions.suffix or 'one without ending'}",
            where=captions,
            fix="save it as such (in Excel: `CSV UTF-8`) and set prepare.captions",
        )
    return _listed(root, settings.folder, captions, audit)


def _two_folders(settings: DatasetSettings, audit: Audit, captions: Path | None) -> Listing:
    root, folder = Path(settings.root), settings.folder
    _check_folders(root, folder)
    layout = shared_layout(root, folder.before, folder.after, audit, settings.links)
    if captions is None:
        stems = sorted(layout.before["train"].keys() & layout.after["train"].keys())
        entries = [CaptionEntry(stem) for stem in stems]
    else:
        entries = read_captions(captions)
    splits = _splits(folder, {entry.stem: entry.split or entry.folder_split for entry in entries}, captions or root)
    assigned = [CaptionEntry(e.stem, splits[e.stem], None, e.captions, e.changed) for e in entries]
    return join(assigned, layout, audit, captions or root)


def _check_folders(root: Path, folder: FolderSettings) -> None:
    missing = [name for name in (folder.before, folder.after) if not os.path.lexists(root / name)]
    if not missing:
        return
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    lists = sorted(path.name for path in root.iterdir() if path.suffix.lower() in LIST_SUFFIXES and path.is_file())
    holds = ", ".join(names[:8]) if names else "no folder"
    within = next((name for name in names if (root / name / folder.before).is_dir()), None)
    dates = pair_of_dates(names)
    if dates is not None:
        fix = f"set prepare.folder.before: {dates[0]} and prepare.folder.after: {dates[1]}"
    elif within is not None:
        fix = f"set prepare.root to {root / within}"
    elif lists:
        fix = f"set prepare.captions to the list of pairs: {' or '.join(lists[:3])}"
    else:
        fix = "set prepare.folder.before and prepare.folder.after to the folders of the two dates"
    raise DataError(f"no images in {' and '.join(missing)}: the root holds {holds}", where=root, fix=fix)


def _listed(root: Path, folder: FolderSettings, path: Path, audit: Audit) -> Listing:
    pair_list = read_pair_list(path, root)
    for line in pair_list.blank:
        audit.note("row-blank", f"{path.name}, line {line}")
    names = FolderNames(root)
    placed = [_as_stored(row, names) for row in pair_list.rows]
    rows = _by_id(_merged(placed, path, audit), path, audit)
    splits = _splits(folder, {name: row.split for name, row in rows.items()}, path)
    listing = Listing()
    for name, row in rows.items():
        missing = [image for image in (row.before, row.after) if not _exists(root / image)]
        if missing:
            _note_missing(name, splits[name], missing, names, root, path, audit)
            listing.left_out.append(CaptionEntry(name, splits[name], None, row.captions, row.changed))
            continue
        listing.pairs.append(
            Pair(
                id=name,
                split=splits[name],
                before=row.before,
                after=row.after,
                captions=row.captions,
                changed=row.changed,
            )
        )
    for image in images_not_listed(root, {image for row in placed for image in (row.before, row.after)}):
        audit.note("file-not-taken", f"{image}: {path.name} does not name it")
    return listing


def _exists(path: Path) -> bool:
    # Links that lead nowhere are told where images are read, among all that cannot be.
    return path.is_file() or lost_link(path) is not None


def _as_stored(row: Row, names: FolderNames) -> Row:
    """Return a row with the paths of its images in the Unicode form in which the files have them."""
    return replace(row, before=_stored_path(row.before, names), after=_stored_path(row.after, names))


def _stored_path(path: str, names: FolderNames) -> str:
    if path.isascii() or names.is_file(PurePosixPath(path)):
        return path
    return names.same_text(path) or path


def _merged(rows: Iterable[Row], path: Path, audit: Audit) -> list[Row]:
    """Join the rows that name the same two images, and no other id, flag or split: one pair with several captions."""
    merged: dict[tuple[str, str, str | None], Row] = {}
    for row in rows:
        key = (row.before, row.after, row.id)
        first = merged.setdefault(key, row)
        if first is row:
            continue
        where = f"{path.name}, lines {first.line} and {row.line}"
        further = tuple(caption for caption in row.captions if caption not in first.captions)
        for field in ("split", "changed"):
            if None not in (values := (getattr(first, field), getattr(row, field))) and values[0] != values[1]:
                raise DataError(
                    f"two rows name the same images and differ in `{field}`: {values[0]} and {values[1]}",
                    where=where,
                    fix=f"write the same `{field}` in both, or one row with caption_1, caption_2 …",
                )
        if not further:
            error = DataError(
                "a row says what another one says", where=where, fix="remove one, or give each its own `id` and images"
            )
            audit.note("duplicate-name", f"{row.id or PurePosixPath(row.before).stem} in {where}", error)
        merged[key] = replace(
            first,
            captions=(*first.captions, *further),
            split=first.split or row.split,
            changed=row.changed if first.changed is None else first.changed,
        )
    return list(merged.values())


def _by_id(rows: Sequence[Row], path: Path, audit: Audit) -> dict[str, Row]:
    """Return the rows by id.

    Without an `id` that is the stem of `before`. Where several rows would have the same, those without an `id` take the
    path of `before` without its ending (`site1/before`), and where these are the same too, both paths.
    """
    forms: tuple[Callable[[Row], str], ...] = (
        lambda row: PurePosixPath(row.before).stem,
        lambda row: PurePosixPath(row.before).with_suffix("").as_posix(),
        lambda row: f"{PurePosixPath(row.before).with_suffix('')}-{PurePosixPath(row.after).with_suffix('')}",
    )
    names = [row.id or forms[0](row) for row in rows]
    for form in forms[1:]:
        counts = Counter(names)
        names = [
            form(row) if row.id is None and counts[name] > 1 else name for row, name in zip(rows, names, strict=True)
        ]
    named: dict[str, Row] = {}
    for name, row in zip(names, rows, strict=True):
        if name in named:
            error = DataError(
                f"two rows have the id {name}, and other images",
                where=f"{path}, lines {named[name].line} and {row.line}",
                fix="give each row its own `id`; or leave the column out: ids are then made of the paths",
            )
            audit.note("duplicate-name", f"{name} in {path.name}, lines {named[name].line} and {row.line}", error)
        else:
            named[name] = row
    return named


_GUESSED: Final = 3
"""Missing images whose nearest name is looked for."""


def _note_missing(
    name: str, split: Split, missing: list[str], names: FolderNames, root: Path, path: Path, audit: Audit
) -> None:
    """Note a row without its images; the first ones with what is near."""
    guess = None
    if audit.count("caption-without-image") < _GUESSED:
        beside = os.path.relpath(path.parent, root)
        near = names.guess(missing[0], "." if beside.startswith("..") else beside)
        guess = "it is a folder: name a file in it" if (root / missing[0]).is_dir() else near
    error = None
    if guess is not None:
        error = DataError(
            f"the image {missing[0]} of {path.name} is not there; {guess}",
            where=root,
            fix="correct the list, or the names of the files",
        )
    noted = f"{split} {name}: {', '.join(missing)}"
    audit.note("caption-without-image", f"{noted} ({guess})" if guess else noted, error)


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
