"""Checks of a listing's pairs: captions against change flags, then every image and mask file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.adapters.base import DatasetAdapter
from pipeline.datasets.audit import Audit
from pipeline.datasets.image_pairs import compare_dates, nodata_remark, read_date
from pipeline.datasets.images import ImageFile
from pipeline.datasets.links import check_link
from pipeline.datasets.no_change import ChangeRule
from pipeline.datasets.records import Pair
from pipeline.datasets.settings import DatasetSettings, MismatchKind, VocabularySettings
from pipeline.datasets.vocabulary import tokenize, too_long_error
from pipeline.datasets.words import unspaced_length
from pipeline.errors import DataError
from pipeline.files import sha256_file


def check_captions(
    pairs: Sequence[Pair], settings: VocabularySettings, audit: Audit, rule: ChangeRule | None = None
) -> list[Pair]:
    """Drop empty captions, derive missing change flags, and note every contradiction.

    A pair without a flag is unchanged when all of its captions deny a change, else changed; without captions, and with
    captions in a language that the rule cannot judge, its flag stays unknown. A flag that is given is kept, whatever
    the captions say.

    Args:
        pairs: As an adapter lists them.
        settings: How captions are split into words, and how long they may be.
        audit: Takes the notes.
        rule: Tells whether a caption states a change; None: the rule for English.

    Returns:
        The pairs in the same order.

    Raises:
        DataError: A caption is longer than `max_length`, and `too_long` is `error`.
    """
    rule = rule or ChangeRule()
    return [_check_pair(pair, settings, audit, rule) for pair in pairs]


# Letters of a script without spaces: a longer word, or caption of one word, is not segmented.
_LONG_WORD, _LONG_CAPTION = 12, 4


def _check_pair(pair: Pair, settings: VocabularySettings, audit: Audit, rule: ChangeRule) -> Pair:
    captions: list[str] = []
    for number, caption in enumerate(pair.captions):
        tokens = tokenize(caption, settings.tokens)
        words = len(tokens)
        if words == 0:
            audit.note("caption-empty", f"{pair.id}: caption {number + 1} of {len(pair.captions)}")
            continue
        if words + 2 > settings.max_length:
            if settings.too_long == "error":
                error = too_long_error(caption, words + 2, settings.max_length)
                raise DataError(error.what, where=f"pair {pair.id}", fix=error.fix)
            audit.note("caption-too-long", f"{pair.id}: {words + 2} tokens")
        longest = 0 if caption.isascii() else max(map(unspaced_length, tokens))
        if longest > (_LONG_WORD if words > 1 else _LONG_CAPTION):
            audit.note("caption-unsegmented", f"{pair.id}: caption {number + 1} of {len(pair.captions)}")
        elif settings.tokens == "words" and longest:
            audit.note("caption-in-characters", f"{pair.id}: caption {number + 1} of {len(pair.captions)}")
        captions.append(caption)
    changed = _change_flag(pair, captions, audit, rule)
    return pair.model_copy(update={"captions": tuple(captions), "changed": changed})


def _change_flag(pair: Pair, captions: Sequence[str], audit: Audit, rule: ChangeRule) -> bool | None:
    if not captions:
        return pair.changed
    captions = [caption for caption in captions if rule.can_judge(caption)]
    if not captions:
        if pair.changed is None:
            audit.note("flag-unknown", pair.id)
        return pair.changed
    stating = sum(rule(caption) for caption in captions)
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


_Problem = tuple[MismatchKind, str, DataError | None]
"""Kind, item and text for the audit, and the error where its kind is strict."""


@dataclass(frozen=True)
class _PairCheck:
    """Result of reading a pair's files.

    Attributes:
        pair: The pair with its hashes; None if it cannot be used.
        size: Size of its images ("256×256").
        problems: What is wrong with its images or masks, or is to be told of them.
        shows_change: Whether its masks show a change; None without masks.
    """

    pair: Pair | None
    size: str = ""
    problems: tuple[_Problem, ...] = ()
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
    images: list[ImageFile] = []
    problems: list[_Problem] = []
    for name in (pair.before, pair.after):
        try:
            check_link(root / name, root, settings.links)
            image = read_date(root / name, convert=settings.convert_images, max_megapixels=settings.max_megapixels)
        except DataError as error:
            return _PairCheck(None, problems=(("image-unreadable", f"{name}: {error.what}", error),))
        images.append(image)
        problems += _image_notes(name, image, settings)
    hashes = dict(zip(("before", "after"), (image.sha256 for image in images), strict=True))
    size = f"{images[0].pixels.shape[1]}×{images[0].pixels.shape[0]}"
    if (contradiction := compare_dates(*images)) is not None:
        what = f"the images of pair {pair.id} {contradiction.what}"
        fix = contradiction.fix
        if contradiction.kind == "georeference-mismatch":
            fix = f"{fix}, or take {contradiction.kind} out of prepare.strict to take such pairs as they are"
        problem = DataError(what, where=root / pair.before, fix=fix)
        problems.append((contradiction.kind, f"{pair.id}: {contradiction.what}", problem))
        if contradiction.kind == "size-mismatch":
            return _PairCheck(None, problems=tuple(problems))
    bare = pair.model_copy(update={**dict.fromkeys(_MASKS), "sha256": dict(hashes)})
    try:
        for name in filter(None, (getattr(pair, field) for field in _MASKS)):
            check_link(root / name, root, settings.links)
        masks = adapter.read_masks(root, pair, settings.max_megapixels)
        for name, mask in masks.items():
            if mask.shape != images[0].pixels.shape[:2]:
                mask_size = f"{mask.shape[1]}×{mask.shape[0]}"
                raise DataError(f"the mask is {mask_size}, its images {size}", where=root / getattr(pair, name))
            hashes[name] = sha256_file(root / getattr(pair, name))
    except DataError as error:
        problems.append(("mask-unreadable", f"{pair.id}: {error.what}", error))
        return _PairCheck(bare, size, tuple(problems))
    shows_change = any(bool(mask.any()) for mask in masks.values()) if masks else None
    return _PairCheck(pair.model_copy(update={"sha256": hashes}), size, tuple(problems), shows_change)


def _image_notes(name: str, image: ImageFile, settings: DatasetSettings) -> list[_Problem]:
    notes: list[_Problem] = [("image-adjusted", f"{name}: {remark}", None) for remark in image.remarks]
    if image.missing > settings.nodata_share:
        notes.append(("no-data", f"{name}: {nodata_remark(image)}", None))
    return notes


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
