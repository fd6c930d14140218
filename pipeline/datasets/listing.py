"""Joining what a caption file says with the images that are there, by split and stem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from pipeline.datasets.audit import Audit
from pipeline.datasets.caption_files import Entry
from pipeline.datasets.images import IMAGE_SUFFIXES
from pipeline.datasets.paths import files_in
from pipeline.datasets.records import SPLITS, Pair, Split
from pipeline.errors import DataError

Stems = Mapping[str, str]
"""Images of one folder: stem → path relative to the data set's root."""

MaskField = Literal["change_mask", "semantic_before", "semantic_after"]

_NO_SPLIT_FIX: Final = "give every entry of the caption file a `split`: train, val or test"


@dataclass
class Listing:
    """The pairs of a data set, before their images are read.

    Attributes:
        pairs: Those with both images; hashes are not filled in yet.
        left_out: Entries of the pairs that lack images, with their split set.
    """

    pairs: list[Pair] = field(default_factory=list)
    left_out: list[Entry] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its images.

    Attributes:
        before: Earlier images per split.
        after: Later images per split.
        split_folders: Whether splits have folders of their own; if not, all splits share one.
    """

    before: Mapping[Split, Stems]
    after: Mapping[Split, Stems]
    split_folders: bool

    def both(self, split: Split, stem: str) -> tuple[str, str] | None:
        """Return the paths of both images of a pair, None unless both are there."""
        before, after = self.before[split].get(stem), self.after[split].get(stem)
        return None if before is None or after is None else (before, after)


def list_images(root: Path, folder: str, audit: Audit) -> dict[str, str]:
    """Index the images directly in a folder by stem; files of other kinds are passed over.

    Returns:
        Stem → path relative to `root`. Of two files with one stem, the first by name is taken and the other noted.
    """
    found: dict[str, str] = {}
    for path in files_in(root, folder):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in found:
            audit.note("duplicate-name", f"{path.relative_to(root)} beside {found[path.stem]}")
            continue
        found[path.stem] = path.relative_to(root).as_posix()
    return found


def split_layout(root: Path, before: str, after: str, audit: Audit) -> Layout:
    """List a layout with one folder per split and date; `{split}` in the patterns stands for the split's name."""
    layout = Layout(
        {split: list_images(root, before.format(split=split), audit) for split in SPLITS},
        {split: list_images(root, after.format(split=split), audit) for split in SPLITS},
        split_folders=True,
    )
    return _checked(layout, root, f"{before} and {after}", audit)


def shared_layout(root: Path, before: str, after: str, audit: Audit) -> Layout:
    """List a layout with one folder per date for all splits."""
    earlier, later = list_images(root, before, audit), list_images(root, after, audit)
    layout = Layout(dict.fromkeys(SPLITS, earlier), dict.fromkeys(SPLITS, later), split_folders=False)
    return _checked(layout, root, f"{before} and {after}", audit)


def supposed_layout(entries: Iterable[Entry], before: str, after: str) -> Layout:
    """Suppose an image pair for every entry, without looking for any.

    Args:
        entries: What a caption file says.
        before: Path of an earlier image; `{split}`, if splits have folders of their own, and `{stem}` stand for the
            entry's.
        after: Path of a later image.
    """
    earlier: dict[Split, dict[str, str]] = {split: {} for split in SPLITS}
    later: dict[Split, dict[str, str]] = {split: {} for split in SPLITS}
    for entry in entries:
        split = entry.split or entry.folder_split
        if split is not None:
            earlier[split][entry.stem] = before.format(split=split, stem=entry.stem)
            later[split][entry.stem] = after.format(split=split, stem=entry.stem)
    return Layout(earlier, later, split_folders="{split}" in before)


def _checked(layout: Layout, root: Path, folders: str, audit: Audit) -> Layout:
    if not any(layout.before[split] or layout.after[split] for split in SPLITS):
        raise DataError(
            f"no images in {folders}",
            where=root,
            fix="set prepare.root to the folder that holds the data set's own layout",
        )
    for split in SPLITS if layout.split_folders else SPLITS[:1]:
        before, after = layout.before[split], layout.after[split]
        for stem in sorted(before.keys() - after.keys()):
            audit.note("before-without-after", before[stem])
        for stem in sorted(after.keys() - before.keys()):
            audit.note("after-without-before", after[stem])
    return layout


def join(entries: Sequence[Entry], layout: Layout, audit: Audit, where: Path) -> Listing:
    """Join entries of a caption file with images, by split and stem.

    Args:
        entries: What the caption file says.
        layout: The images that are there.
        audit: Notes duplicates, contradicting splits, captions without images, images without captions.
        where: The caption file, for errors.

    Returns:
        Pairs in file order. A pair's id is its stem, or `<split>_<stem>` where several splits have that stem.

    Raises:
        DataError: An entry's split is neither given nor to be seen from its folder.
    """
    placed = _place(entries, layout, audit, where)
    owners = Counter(stem for _, stem in placed)
    listing = Listing()
    used: set[tuple[Split, str]] = set()
    for (split, stem), entry in placed.items():
        home = _home(split, stem, layout, placed, audit)
        images = layout.both(home, stem) if home else None
        if home is None or images is None:
            audit.note("caption-without-image", f"{split} {stem}")
            listing.left_out.append(replace(entry, split=split))
            continue
        used.add((home, stem))
        identity = stem if owners[stem] == 1 else f"{split}_{stem}"
        listing.pairs.append(
            Pair(
                id=identity,
                split=split,
                before=images[0],
                after=images[1],
                captions=entry.captions,
                changed=entry.changed,
            )
        )
    _note_unused(layout, used, audit)
    return listing


def _place(entries: Iterable[Entry], layout: Layout, audit: Audit, where: Path) -> dict[tuple[Split, str], Entry]:
    """Give every entry its split; drop what is named twice."""
    placed: dict[tuple[Split, str], Entry] = {}
    first: dict[str, Split] = {}
    for entry in entries:
        split = entry.split or entry.folder_split or _split_of_images(entry.stem, layout)
        if split is None:
            raise DataError(f"{entry.stem} is given to no split", where=where, fix=_NO_SPLIT_FIX)
        if entry.folder_split not in (None, split):
            audit.note("split-contradiction", f"{entry.stem}: given to {split} and to {entry.folder_split}")
        if (split, entry.stem) in placed:
            audit.note("duplicate-name", f"{split} {entry.stem} in {where.name}")
            continue
        if not layout.split_folders and entry.stem in first:
            audit.note("split-contradiction", f"{entry.stem}: given to {first[entry.stem]} and to {split}")
            continue
        first.setdefault(entry.stem, split)
        placed[split, entry.stem] = entry
    return placed


def _split_of_images(stem: str, layout: Layout) -> Split | None:
    homes = [split for split in SPLITS if layout.both(split, stem)]
    return homes[0] if layout.split_folders and len(homes) == 1 else None


def _home(
    split: Split, stem: str, layout: Layout, placed: Mapping[tuple[Split, str], Entry], audit: Audit
) -> Split | None:
    """Return the split whose folders hold the pair's images, which should be its own."""
    if layout.both(split, stem):
        return split
    for other in SPLITS:
        if layout.both(other, stem):
            audit.note("split-contradiction", f"{stem}: split {split}, but its images are in the folders of {other}")
            return None if (other, stem) in placed else other
    return None


def _note_unused(layout: Layout, used: set[tuple[Split, str]], audit: Audit) -> None:
    stems_used = {stem for _, stem in used}
    for split in SPLITS if layout.split_folders else SPLITS[:1]:
        for stem in sorted(layout.before[split].keys() & layout.after[split].keys()):
            taken = (split, stem) in used if layout.split_folders else stem in stems_used
            if not taken:
                audit.note("image-without-caption", layout.before[split][stem])


def attach(listing: Listing, field_name: MaskField, files: Mapping[Split, Stems], audit: Audit) -> None:
    """Attach one kind of mask to the pairs of a listing, by split and the stem of their earlier image.

    Args:
        listing: Its pairs are replaced.
        field_name: The field of `Pair` that takes the mask's path.
        files: Masks per split.
        audit: Notes pairs without mask and masks without pair.
    """
    known = {(entry.split, entry.stem) for entry in listing.left_out}
    for position, pair in enumerate(listing.pairs):
        stem = PurePosixPath(pair.before).stem
        known.add((pair.split, stem))
        path = files[pair.split].get(stem)
        if path is None:
            audit.note("pair-without-mask", f"{pair.id}: no {field_name}")
        else:
            listing.pairs[position] = pair.model_copy(update={field_name: path})
    for split, stems in files.items():
        for stem in sorted(stems):
            if (split, stem) not in known:
                audit.note("mask-without-pair", stems[stem])
