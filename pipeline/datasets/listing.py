"""Image files of a data set, and their join with the entries of its caption file by split and stem."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from pipeline.datasets.audit import Audit
from pipeline.datasets.caption_files import CaptionEntry
from pipeline.datasets.images import IMAGE_SUFFIXES
from pipeline.datasets.links import LinkRule
from pipeline.datasets.nearest import FolderNames, folded
from pipeline.datasets.paths import files_in
from pipeline.datasets.records import SPLITS, Pair, Split
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.unread_files import files_not_read, has_text_name
from pipeline.errors import DataError

Stems = Mapping[str, str]
"""Images of one folder: stem → path relative to the data set's root."""

MaskField = Literal["change_mask", "semantic_before", "semantic_after"]

SAME_NAMES: Final = "give both dates of a pair files of the same name"
"""Advice where the two dates' files cannot be joined."""
_ROOT_FIX: Final = "set prepare.root to the folder that holds the data set's own layout, of PNG, JPEG or TIFF images"
_NO_SPLIT_FIX: Final = "give every entry of the caption file a `split`: train, val or test"


@dataclass
class Listing:
    """The pairs of a data set, before their images are read.

    Attributes:
        pairs: Those with both images; hashes are not filled in yet.
        left_out: Entries of the pairs that lack images, with their split set.
    """

    pairs: list[Pair] = field(default_factory=list)
    left_out: list[CaptionEntry] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """Image files of a data set.

    Attributes:
        before: Earlier images per split.
        after: Later images per split.
        split_folders: Whether splits have folders of their own; if not, all splits share one.
        root: The data set's root, for messages.
        folders: The folders of both dates, likewise; `{split}` in them stands for the split's name.
    """

    before: Mapping[Split, Stems]
    after: Mapping[Split, Stems]
    split_folders: bool
    root: Path = Path()
    folders: tuple[str, str] = ("", "")

    def both(self, split: Split, stem: str) -> tuple[str, str] | None:
        """Return the paths of both images of a pair, None unless both exist."""
        before, after = self.before[split].get(stem), self.after[split].get(stem)
        return None if before is None or after is None else (before, after)


def list_images(root: Path, folder: str, audit: Audit, links: LinkRule = "inside") -> dict[str, str]:
    """Index the images directly in a folder by stem; other files and folders are noted.

    Returns:
        Stem, in Unicode's composed form → path relative to `root`. Of two files with one stem, the first by name is
        taken and the other noted.
    """
    images: dict[str, str] = {}
    for path in files_in(root, folder, links):
        if path.suffix.lower() not in IMAGE_SUFFIXES or not has_text_name(path):
            continue
        stem, name = unicodedata.normalize("NFC", path.stem), path.relative_to(root).as_posix()
        if stem in images:
            error = DataError(
                f"two images of a folder have the same name but for the ending: {images[stem]} and {name}",
                where=root,
                fix="rename or remove one of them",
            )
            audit.note("duplicate-name", f"{name} beside {images[stem]}", error)
            continue
        images[stem] = name
    for path, reason in files_not_read(root, folder):
        audit.note("file-not-taken", f"{path.relative_to(root).as_posix()}: {reason}")
    return images


def find_images(
    entries: Iterable[CaptionEntry], before: str, after: str, suffix: str, settings: DatasetSettings, audit: Audit
) -> Layout:
    """List the images of a data set; with `images: none`, the paths that the entries' images would have.

    Args:
        entries: Entries of the caption file.
        before: Folder of the earlier images; `{split}` in it stands for the split's name.
        after: Folder of the later images, likewise.
        suffix: Suffix of the image files, for `images: none`.
        settings: Root, and whether to look for images.
        audit: Notes images that lack their other date.
    """
    if settings.images == "none":
        return expected_layout(entries, f"{before}/{{stem}}{suffix}", f"{after}/{{stem}}{suffix}")
    list_layout = split_layout if "{split}" in before else shared_layout
    return list_layout(Path(settings.root), before, after, audit, settings.links)


def split_layout(root: Path, before: str, after: str, audit: Audit, links: LinkRule = "inside") -> Layout:
    """List a layout with one folder per split and date; `{split}` in the patterns stands for the split's name."""
    layout = Layout(
        {split: list_images(root, before.format(split=split), audit, links) for split in SPLITS},
        {split: list_images(root, after.format(split=split), audit, links) for split in SPLITS},
        split_folders=True,
        root=root,
        folders=(before, after),
    )
    if not _has_images(layout):
        raise _no_images(root, before, after, audit)
    _note_single_dates(layout, root, audit)
    return layout


def shared_layout(root: Path, before: str, after: str, audit: Audit, links: LinkRule = "inside") -> Layout:
    """List a layout with one folder per date for all splits."""
    earlier, later = list_images(root, before, audit, links), list_images(root, after, audit, links)
    shared = (dict.fromkeys(SPLITS, earlier), dict.fromkeys(SPLITS, later))
    layout = Layout(*shared, split_folders=False, root=root, folders=(before, after))
    if not _has_images(layout):
        raise _no_images(root, before, after, audit)
    _note_single_dates(layout, root, audit)
    return layout


def expected_layout(entries: Iterable[CaptionEntry], before: str, after: str) -> Layout:
    """Return the paths that the entries' images would have, whether they exist or not.

    Args:
        entries: Entries of the caption file.
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


def _has_images(layout: Layout) -> bool:
    return any(layout.before[split] or layout.after[split] for split in SPLITS)


def _no_images(root: Path, before: str, after: str, audit: Audit) -> DataError:
    """Return the error of a layout without images, with what is near instead."""
    others = audit.items("file-not-taken")
    folders = [path.name for path in _folders(root)]
    if others:
        holds = f", but {len(others)} that cannot be taken ({others[0]})"
    else:
        holds = f"; the root holds the folders {', '.join(folders[:8])}" if folders else "; the root holds no folder"
    first = before.format(split=SPLITS[0])
    near = next((path for path in (*_folders(root), root.absolute().parent) if (path / first).is_dir()), None)
    similar = FolderNames(root).folder_like(first)
    fix = _ROOT_FIX
    if near is not None:
        fix = f"set prepare.root to {near}, which has {first}"
    elif similar is not None:
        fix = f"rename {similar} to {first}: capitals count"
    return DataError(f"no images in {before} and {after}{holds}", where=root, fix=fix)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _note_single_dates(layout: Layout, root: Path, audit: Audit) -> None:
    """Note the images whose other date is missing, with the name that is nearest to it."""
    for split in SPLITS if layout.split_folders else SPLITS[:1]:
        before, after = layout.before[split], layout.after[split]
        _note_single(before, after, root, "before-without-after", audit)
        _note_single(after, before, root, "after-without-before", audit)


def _note_single(
    images: Stems,
    others: Stems,
    root: Path,
    kind: Literal["before-without-after", "after-without-before"],
    audit: Audit,
) -> None:
    near = {folded(stem): stem for stem in others}
    first = next(iter(others.values()), None)
    for stem in sorted(images.keys() - others.keys()):
        similar, error = near.get(folded(stem)), None
        if similar is not None:
            what = f"the image has no other date of the same name, but {others[similar]} is there"
            error = DataError(what, where=root / images[stem], fix=f"{SAME_NAMES}: capitals count")
        elif first is not None and not images.keys() & others.keys():
            what = f"no image has an other date of the same name: the folders hold {images[stem]} and {first}"
            fix = f"{SAME_NAMES}; with profile `folder`, a list (CSV) of the columns before and after joins any files"
            error = DataError(what, where=root, fix=fix)
        audit.note(kind, images[stem], error)


def join(entries: Sequence[CaptionEntry], layout: Layout, audit: Audit, where: Path) -> Listing:
    """Join entries of a caption file with images, by split and stem.

    Args:
        entries: Entries of the caption file.
        layout: The images.
        audit: Notes duplicates, contradicting splits, captions without images, images without captions.
        where: The caption file, for errors.

    Returns:
        Pairs in file order. A pair's id is its stem, or `<split>_<stem>` where several splits have that stem.

    Raises:
        DataError: An entry's split follows neither from the entry nor from its folder or images.
    """
    assigned = _assign_splits(entries, layout, audit, where)
    owners = Counter(stem for _, stem in assigned)
    listing = Listing()
    used: set[tuple[Split, str]] = set()
    similar = _SimilarStems(layout, assigned)
    for (split, stem), entry in assigned.items():
        folder_split = _folder_split(split, stem, layout, assigned, audit)
        images = layout.both(folder_split, stem) if folder_split else None
        if folder_split is None or images is None:
            audit.note("caption-without-image", f"{split} {stem}", similar.error(split, stem, where))
            listing.left_out.append(replace(entry, split=split))
            continue
        used.add((folder_split, stem))
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


class _SimilarStems:
    """Guesses for captions whose images are missing."""

    def __init__(self, layout: Layout, assigned: Mapping[tuple[Split, str], CaptionEntry]) -> None:
        self._layout = layout
        images = {split: {**layout.after[split], **layout.before[split]} for split in SPLITS}
        self._near = {split: {folded(stem): name for stem, name in images[split].items()} for split in SPLITS}
        self._first = next((name for names in images.values() for name in names.values()), None)
        self._none_joined = not any(layout.both(other, stem) for _, stem in assigned for other in SPLITS)

    def error(self, split: Split, stem: str, where: Path) -> DataError | None:
        """Return the error for one of them; None where nothing is near."""
        near = self._near[split].get(folded(stem))
        if near is not None and unicodedata.normalize("NFC", PurePosixPath(near).stem) != stem:
            what = f"a caption is for the image {stem}, which is not there, but {near} is"
            return DataError(what, where=where, fix="write the names as the files have them: capitals count")
        for images, pattern in zip((self._layout.before, self._layout.after), self._layout.folders, strict=True):
            folder = PurePosixPath(pattern.format(split=split))
            if pattern and not images[split] and not (self._layout.root / folder).is_dir():
                return self._no_folder(folder)
        if self._none_joined and self._first is not None:
            what = f"no caption is for one of the images: it is for {stem}, say, and an image is {self._first}"
            return DataError(what, where=where, fix="give caption file and images the same names")
        return None

    def _no_folder(self, folder: PurePosixPath) -> DataError:
        names = FolderNames(self._layout.root)
        above = folder.parent
        while not names.in_folder(above) and above != above.parent:
            above = above.parent
        holds = f"{above if above.name else 'the root'} holds {', '.join(names.in_folder(above)[:8])}"
        similar = names.folder_like(str(folder))
        fix = (
            "put the images there, or give the folder that holds them this name; with prepare.allow_missing_images: "
            "true their pairs are left out"
        )
        if similar is not None and similar != str(folder):
            fix = f"rename {similar} to {folder}: capitals count"
        what = f"there are captions for images in {folder}, which is not there; {holds}"
        return DataError(what, where=self._layout.root, fix=fix)


def _assign_splits(
    entries: Iterable[CaptionEntry], layout: Layout, audit: Audit, where: Path
) -> dict[tuple[Split, str], CaptionEntry]:
    """Return the entries by split and stem; of entries with the same split and stem, the first is kept."""
    assigned: dict[tuple[Split, str], CaptionEntry] = {}
    first: dict[str, Split] = {}
    for entry in entries:
        split = entry.split or entry.folder_split or _split_of_images(entry.stem, layout)
        if split is None:
            raise DataError(f"{entry.stem} is given to no split", where=where, fix=_NO_SPLIT_FIX)
        if entry.folder_split not in (None, split):
            audit.note("split-contradiction", f"{entry.stem}: given to {split} and to {entry.folder_split}")
        if (split, entry.stem) in assigned:
            audit.note("duplicate-name", f"{split} {entry.stem} in {where.name}")
            continue
        if not layout.split_folders and entry.stem in first:
            audit.note("split-contradiction", f"{entry.stem}: given to {first[entry.stem]} and to {split}")
            continue
        first.setdefault(entry.stem, split)
        assigned[split, entry.stem] = entry
    return assigned


def _split_of_images(stem: str, layout: Layout) -> Split | None:
    splits = [split for split in SPLITS if layout.both(split, stem)]
    return splits[0] if layout.split_folders and len(splits) == 1 else None


def _folder_split(
    split: Split, stem: str, layout: Layout, assigned: Mapping[tuple[Split, str], CaptionEntry], audit: Audit
) -> Split | None:
    """Return the split whose folders hold the pair's images, which should be the pair's own split."""
    if layout.both(split, stem):
        return split
    for other in SPLITS:
        if layout.both(other, stem):
            audit.note("split-contradiction", f"{stem}: split {split}, but its images are in the folders of {other}")
            return None if (other, stem) in assigned else other
    return None


def _note_unused(layout: Layout, used: set[tuple[Split, str]], audit: Audit) -> None:
    stems_used = {stem for _, stem in used}
    for split in SPLITS if layout.split_folders else SPLITS[:1]:
        for stem in sorted(layout.before[split].keys() & layout.after[split].keys()):
            captioned = (split, stem) in used if layout.split_folders else stem in stems_used
            if not captioned:
                audit.note("image-without-caption", layout.before[split][stem])


def attach(listing: Listing, field_name: MaskField, files: Mapping[Split, Stems], audit: Audit) -> None:
    """Attach one kind of mask to the pairs of a listing, by split and the stem of their earlier image.

    Args:
        listing: Its pairs are replaced.
        field_name: The field of `Pair` that takes the mask's path.
        files: Masks per split.
        audit: Notes pairs without mask and masks without pair.
    """
    listed = {(entry.split, entry.stem) for entry in listing.left_out}
    for position, pair in enumerate(listing.pairs):
        stem = PurePosixPath(pair.before).stem
        listed.add((pair.split, stem))
        path = files[pair.split].get(stem)
        if path is None:
            audit.note("pair-without-mask", f"{pair.id}: no {field_name}")
        else:
            listing.pairs[position] = pair.model_copy(update={field_name: path})
    for split, stems in files.items():
        for stem in sorted(stems):
            if (split, stem) not in listed:
                audit.note("mask-without-pair", stems[stem])
