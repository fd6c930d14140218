"""Own pairs: two folders of images with the same stems, or a list of pairs as CSV or JSONL."""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets.adapter import find_captions, no_masks
from pipeline.datasets.audit import Audit
from pipeline.datasets.entries import Entry
from pipeline.datasets.karpathy import read_captions
from pipeline.datasets.listing import Listing, join, shared_layout
from pipeline.datasets.pair_lists import Row, read_rows
from pipeline.datasets.paths import check_root, refuse_outside
from pipeline.datasets.records import Pair, Split
from pipeline.datasets.settings import DatasetSettings, FolderSettings
from pipeline.datasets.splits import draw_splits
from pipeline.errors import DataError, SettingsError

read_masks = no_masks


def list_pairs(settings: DatasetSettings, audit: Audit) -> Listing:
    """List the pairs; see `pipeline.datasets.adapter.Adapter`.

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
        entries = [Entry(stem) for stem in stems]
    else:
        entries = read_captions(captions)
    splits = _splits(folder, {entry.stem: entry.split or entry.folder_split for entry in entries}, captions or root)
    placed = [Entry(e.stem, splits[e.stem], None, e.captions, e.changed) for e in entries]
    return join(placed, layout, audit, captions or root)


def _listed(root: Path, folder: FolderSettings, path: Path, audit: Audit) -> Listing:
    rows: dict[str, Row] = {}
    for row in read_rows(path):
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
            listing.left_out.append(Entry(row.id, split, None, row.captions, row.changed))
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
