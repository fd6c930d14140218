"""Reading every image of a listing once: is it whole, do both dates match, what is its hash.

Checking the captions of pairs: empty ones, change flags, and what the two say about each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.adapters import Adapter
from pipeline.datasets.audit import Audit
from pipeline.datasets.images import check_image
from pipeline.datasets.no_change import implies_change
from pipeline.datasets.records import Pair
from pipeline.datasets.settings import DatasetSettings, MismatchKind, VocabularySettings
from pipeline.datasets.vocabulary import tokenize, too_long_error
from pipeline.errors import DataError
from pipeline.files import sha256_file


def settle_captions(pairs: Sequence[Pair], settings: VocabularySettings, audit: Audit) -> list[Pair]:
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
    return [_settle(pair, settings, audit) for pair in pairs]


def _settle(pair: Pair, settings: VocabularySettings, audit: Audit) -> Pair:
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
    changed = _settle_flag(pair, captions, audit)
    return pair.model_copy(update={"captions": tuple(captions), "changed": changed})


def _settle_flag(pair: Pair, captions: Sequence[str], audit: Audit) -> bool | None:
    if not captions:
        return pair.changed
    telling = sum(implies_change(caption) for caption in captions)
    if 0 < telling < len(captions):
        audit.note("captions-disagree", f"{pair.id}: {telling} of {len(captions)} tell of a change")
    if pair.changed is None:
        audit.note("flag-derived", f"{pair.id}: {'changed' if telling else 'unchanged'}")
        return telling > 0
    if (telling == 0 and pair.changed) or (telling == len(captions) and not pair.changed):
        says = "deny" if pair.changed else "tell of"
        audit.note(
            "flag-contradicts-captions", f"{pair.id}: flag {int(pair.changed)}, but its captions {says} a change"
        )
    return pair.changed


_MASKS = ("semantic_before", "semantic_after", "change_mask")


@dataclass(frozen=True)
class _Reading:
    """What reading one pair gave: the pair, or why it cannot be used; and what was wrong with its masks."""

    pair: Pair | None
    size: str = ""
    problems: tuple[tuple[MismatchKind, str, DataError], ...] = ()
    shows_change: bool | None = None


def verify_pairs(
    pairs: Sequence[Pair], settings: DatasetSettings, adapter: Adapter, audit: Audit, threads: int
) -> Iterator[tuple[Pair, str] | None]:
    """Read all images and masks of `pairs`, in parallel threads, and note what is wrong with them.

    Pairs whose images cannot be used are left out; masks that cannot be used are taken off their pairs. Which of that
    is an error is for `Audit.check` to say, so that one run finds every bad file.

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
        for reading in pool.map(lambda pair: _read(pair, settings, adapter), pairs):
            for kind, item, error in reading.problems:
                audit.note(kind, item, error)
            if reading.pair is None:
                yield None
                continue
            _compare(reading.pair, reading.shows_change, seen, audit)
            yield reading.pair, reading.size


def _read(pair: Pair, settings: DatasetSettings, adapter: Adapter) -> _Reading:
    root = Path(settings.root)
    hashes: dict[str, str] = {}
    shapes: list[tuple[int, int]] = []
    for date in ("before", "after"):
        path = root / getattr(pair, date)
        try:
            image = check_image(path, convert=settings.convert_images, max_megapixels=settings.max_megapixels)
        except DataError as error:
            return _Reading(None, problems=(("image-unreadable", f"{getattr(pair, date)}: {error.what}", error),))
        hashes[date] = image.sha256
        shapes.append((image.pixels.shape[0], image.pixels.shape[1]))
    names = [f"{width}×{height}" for height, width in shapes]
    if shapes[0] != shapes[1]:
        mismatch = DataError(
            f"the images of pair {pair.id} differ in size: {names[0]} before, {names[1]} after",
            where=root / pair.before,
            fix="bring both dates to the same grid of pixels",
        )
        return _Reading(None, problems=(("size-mismatch", f"{pair.id}: {names[0]} and {names[1]}", mismatch),))
    bare = pair.model_copy(update={**dict.fromkeys(_MASKS), "sha256": dict(hashes)})
    try:
        masks = adapter.read_masks(root, pair, settings.max_megapixels)
        for name, mask in masks.items():
            if mask.shape != shapes[0]:
                found = f"{mask.shape[1]}×{mask.shape[0]}"
                raise DataError(f"the mask is {found}, its images {names[0]}", where=root / getattr(pair, name))
            hashes[name] = sha256_file(root / getattr(pair, name))
    except DataError as error:
        return _Reading(bare, names[0], (("mask-unreadable", f"{pair.id}: {error.what}", error),))
    shows_change = any(bool(mask.any()) for mask in masks.values()) if masks else None
    return _Reading(pair.model_copy(update={"sha256": hashes}), names[0], shows_change=shows_change)


def _compare(pair: Pair, shows_change: bool | None, seen: dict[str, Pair], audit: Audit) -> None:
    """Compare a pair's flag with its masks and its files with those of pairs before it."""
    if shows_change is not None and pair.changed is not None and shows_change != pair.changed:
        masks = "its masks show a change" if shows_change else "its masks show none"
        audit.note("flag-contradicts-mask", f"{pair.id}: flag {int(pair.changed)}, but {masks}")
    if pair.changed and pair.sha256["before"] == pair.sha256["after"]:
        audit.note("before-equals-after", pair.id)
    for date in ("before", "after"):
        other = seen.setdefault(pair.sha256[date], pair)
        if other.split != pair.split:
            audit.note("image-in-two-splits", f"{pair.id} ({pair.split}) {date}, also in {other.id} ({other.split})")
