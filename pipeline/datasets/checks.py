"""Checks of a listing's pairs: captions against change flags, then every image and mask file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.adapters.base import DatasetAdapter
from pipeline.datasets.audit import Audit
from pipeline.datasets.images import read_image
from pipeline.datasets.no_change import implies_change
from pipeline.datasets.records import Pair
from pipeline.datasets.settings import DatasetSettings, MismatchKind, VocabularySettings
from pipeline.datasets.vocabulary import tokenize, too_long_error
from pipeline.errors import DataError
from pipeline.files import sha256_file


def check_captions(pairs: Sequence[Pair], settings: VocabularySettings, audit: Audit) -> list[Pair]:
    """Drop empty captions, derive missing change flags, and note every contradiction.

    A pair without a flag is unchanged when all of its captions deny a change, else changed; without captions its flag
    stays unknown. A flag that is given is kept, whatever the captions say.

    Args:
        pairs: As an adapter lists them.
        settings: How captions are split into words, and how long they may be.
        audit: Takes the notes.

    Returns:
        The pairs in the same order.

    Raises:
        DataError: A caption is longer than `max_length`, and `too_long` is `error`.
    """
    return [_check_pair(pair, settings, audit) for pair in pairs]


def _check_pair(pair: Pair, settings: VocabularySettings, audit: Audit) -> Pair:
    captions: list[str] = []
    for number, caption in enumerate(pair.captions):
        words = len(tokenize(caption, settings.tokens))
        if words == 0:
            audit.note("caption-empty", f"{pair.id}: caption {number + 1} of {len(pair.captions)}")
            continue
        if words + 2 > settings.max_length:
            if settings.too_long == "error":
                error = too_long_error(caption, words + 2, settings.max_length)
                raise DataError(error.what, where=f"pair {pair.id}", fix=error.fix)
            audit.note("caption-too-long", f"{pair.id}: {words + 2} tokens")
        captions.append(caption)
    changed = _change_flag(pair, captions, audit)
    return pair.model_copy(update={"captions": tuple(captions), "changed": changed})


def _change_flag(pair: Pair, captions: Sequence[str], audit: Audit) -> bool | None:
    if not captions:
        return pair.changed
    stating = sum(implies_change(caption) for caption in captions)
    if 0 < stating < len(captions):
        audit.note("captions-disagree", f"{pair.id}: {stating} of {len(captions)} tell of a change")
    if pair.changed is None:
        audit.note("flag-derived", f"{pair.id}: {'changed' if stating else 'unchanged'}")
        return stating > 0
    if (stating == 0 and pair.changed) or (stating == len(captions) and not pair.changed):
        says = "deny" if pair.changed else "tell of"
        audit.note(
            "flag-contradicts-captions", f"{pair.id}: flag {int(pair.changed)}, but its captions {says} a change"
        )
    return pair.changed


_MASKS = ("semantic_before", "semantic_after", "change_mask")


@dataclass(frozen=True)
class _PairCheck:
    """Result of reading a pair's files.

    Attributes:
        pair: The pair with its hashes; None if it cannot be used.
        size: Size of its images ("256×256").
        problems: What is wrong with its images or masks.
        shows_change: Whether its masks show a change; None without masks.
    """

    pair: Pair | None
    size: str = ""
    problems: tuple[tuple[MismatchKind, str, DataError], ...] = ()
    shows_change: bool | None = None


def check_images(
    pairs: Sequence[Pair], settings: DatasetSettings, adapter: DatasetAdapter, audit: Audit, threads: int
) -> Iterator[tuple[Pair, str] | None]:
    """Read all images and masks of `pairs` in parallel threads, and note what is wrong with them.

    Pairs whose images cannot be used are left out; masks that cannot be used are removed from their pairs.
    `Audit.check` decides afterwards which of that is an error, so that one run finds every bad file.

    Args:
        pairs: As an adapter lists them.
        settings: Root and how to read.
        adapter: Reads the masks.
        audit: Takes the notes.
        threads: Files read at once.

    Yields:
        For each pair in order: the pair with the hashes of its files, and its images' size ("256×256"); None for one
        that cannot be used.
    """
    seen: dict[str, Pair] = {}
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for check in pool.map(lambda pair: _read_pair(pair, settings, adapter), pairs):
            for kind, item, error in check.problems:
                audit.note(kind, item, error)
            if check.pair is None:
                yield None
                continue
            _compare_pair(check.pair, check.shows_change, seen, audit)
            yield check.pair, check.size


def _read_pair(pair: Pair, settings: DatasetSettings, adapter: DatasetAdapter) -> _PairCheck:
    root = Path(settings.root)
    hashes: dict[str, str] = {}
    shapes: list[tuple[int, int]] = []
    for date in ("before", "after"):
        path = root / getattr(pair, date)
        try:
            image = read_image(path, convert=settings.convert_images, max_megapixels=settings.max_megapixels)
        except DataError as error:
            return _PairCheck(None, problems=(("image-unreadable", f"{getattr(pair, date)}: {error.what}", error),))
        hashes[date] = image.sha256
        shapes.append((image.pixels.shape[0], image.pixels.shape[1]))
    sizes = [f"{width}×{height}" for height, width in shapes]
    if shapes[0] != shapes[1]:
        mismatch = DataError(
            f"the images of pair {pair.id} differ in size: {sizes[0]} before, {sizes[1]} after",
            where=root / pair.before,
            fix="bring both dates to the same grid of pixels",
        )
        return _PairCheck(None, problems=(("size-mismatch", f"{pair.id}: {sizes[0]} and {sizes[1]}", mismatch),))
    bare = pair.model_copy(update={**dict.fromkeys(_MASKS), "sha256": dict(hashes)})
    try:
        masks = adapter.read_masks(root, pair, settings.max_megapixels)
        for name, mask in masks.items():
            if mask.shape != shapes[0]:
                mask_size = f"{mask.shape[1]}×{mask.shape[0]}"
                raise DataError(f"the mask is {mask_size}, its images {sizes[0]}", where=root / getattr(pair, name))
            hashes[name] = sha256_file(root / getattr(pair, name))
    except DataError as error:
        return _PairCheck(bare, sizes[0], (("mask-unreadable", f"{pair.id}: {error.what}", error),))
    shows_change = any(bool(mask.any()) for mask in masks.values()) if masks else None
    return _PairCheck(pair.model_copy(update={"sha256": hashes}), sizes[0], shows_change=shows_change)


def _compare_pair(pair: Pair, shows_change: bool | None, seen: dict[str, Pair], audit: Audit) -> None:
    """Compare a pair's flag with its masks, and its images with those of the pairs before it."""
    if shows_change is not None and pair.changed is not None and shows_change != pair.changed:
        masks = "its masks show a change" if shows_change else "its masks show none"
        audit.note("flag-contradicts-mask", f"{pair.id}: flag {int(pair.changed)}, but {masks}")
    if pair.changed and pair.sha256["before"] == pair.sha256["after"]:
        audit.note("before-equals-after", pair.id)
    for date in ("before", "after"):
        other = seen.setdefault(pair.sha256[date], pair)
        if other.split != pair.split:
            audit.note("image-in-two-splits", f"{pair.id} ({pair.split}) {date}, also in {other.id} ({other.split})")
