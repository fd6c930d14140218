"""The audit of a data set for audit.json: its mismatches, counted and listed, and its statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.datasets.records import SPLITS, Pair
from pipeline.datasets.settings import MISMATCH_KINDS, MismatchKind
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.errors import DataError

LISTED: Final = 50
"""Mismatches of a kind that audit.json lists; all are counted."""

_FIX_FILES: Final = "correct the files, or take {kind} out of prepare.strict to leave these pairs out"
_MEANING: Final[dict[MismatchKind, tuple[str, str]]] = {
    "caption-without-image": (
        "captioned pairs without both images",
        "put the images there, or set prepare.allow_missing_images: true to leave these pairs out",
    ),
    "image-without-caption": ("image pairs that no caption speaks of; they are left out", ""),
    "before-without-after": ("earlier images without a later one", _FIX_FILES),
    "after-without-before": ("later images without an earlier one", _FIX_FILES),
    "image-unreadable": ("images that cannot be used", _FIX_FILES),
    "size-mismatch": ("pairs whose images differ in size", _FIX_FILES),
    "georeference-mismatch": (
        "pairs whose images do not cover the same ground, by their coordinates",
        "warp both dates to the same grid of pixels (`gdalwarp`), or take {kind} out of prepare.strict to take these "
        "pairs as they are",
    ),
    "georeference-missing": ("pairs of which only one image carries coordinates, so that they cannot be compared", ""),
    "no-data": ("images with pixels without data (more than prepare.nodata_share); these pixels are black", ""),
    "image-adjusted": ("images whose pixels are not taken as they are stored, or not as the file asks for", ""),
    "file-not-taken": ("files and folders among the images that are not read", ""),
    "row-blank": ("rows of the list of pairs without content; they are passed over", ""),
    "duplicate-name": (
        "names that are given twice; the first is taken",
        "give each its own name, in a list of pairs by the column `id`; or take {kind} out of prepare.strict to keep "
        "the first of each",
    ),
    "split-contradiction": (
        "pairs whose split is given twice and differently",
        "correct the caption file, or take {kind} out of prepare.strict to follow its `split`",
    ),
    "image-in-two-splits": ("image files that occur with the same content in several splits", ""),
    "before-equals-after": ("pairs said to be changed whose two images are the same file content", ""),
    "caption-file-missing": (
        "caption files that are not there",
        "put the file there, or take {kind} out of prepare.strict to work without its split",
    ),
    "caption-empty": (
        "captions without any word; they are dropped",
        "correct the caption file, or take {kind} out of prepare.strict to drop these captions",
    ),
    "caption-too-long": ("captions above prepare.vocabulary.max_length; training truncates them", ""),
    "caption-unsegmented": (
        "captions without spaces that the token rule takes for one word each",
        "set prepare.vocabulary.tokens: words, which takes each character for a word, or separate the words by spaces, "
        "or take {kind} out of prepare.strict",
    ),
    "caption-in-characters": (
        "captions in a script without spaces: each character is taken for a word, in training and in the scores; "
        "segment them and set prepare.vocabulary.tokens: spaced to have words",
        "",
    ),
    "captions-disagree": ("pairs of which some captions deny a change and others tell of one", ""),
    "flag-derived": ("pairs without a change flag; it is derived from the captions", ""),
    "flag-unknown": (
        "pairs without a change flag whose captions are not English, so that none is derived; give the flags, or list "
        "the sentences that deny change in prepare.no_change_sentences",
        "",
    ),
    "flag-contradicts-captions": ("pairs whose change flag contradicts all of their captions", ""),
    "flag-contradicts-mask": ("pairs whose change flag contradicts the change in their masks", ""),
    "mask-without-pair": ("masks that belong to no pair", ""),
    "pair-without-mask": ("pairs without the masks that the data set has", ""),
    "mask-unreadable": (
        "masks or semantic maps that cannot be used",
        "correct the files, or take {kind} out of prepare.strict to work without these masks",
    ),
}


class Audit:
    """Collects mismatches while a data set is read.

    `note` never raises, so that one run finds every mismatch. `check` raises afterwards for the kinds that the settings
    call errors.
    """

    def __init__(self) -> None:
        self._notes: dict[MismatchKind, list[str]] = {kind: [] for kind in MISMATCH_KINDS}
        self._errors: dict[MismatchKind, DataError] = {}

    def note(self, kind: MismatchKind, item: str, error: DataError | None = None) -> None:
        """Record one mismatch.

        Args:
            kind: Kind of mismatch.
            item: The pair, file or entry, with what is wrong about it.
            error: The error to raise for it if its kind is strict, where a file is at fault.
        """
        # A file's name may hold bytes that are no UTF-8, and audit.json is.
        self._notes[kind].append(item.encode("utf-8", "backslashreplace").decode("utf-8"))
        if error is not None:
            self._errors.setdefault(kind, error)

    def count(self, kind: MismatchKind) -> int:
        """Number of mismatches of one kind."""
        return len(self._notes[kind])

    def items(self, kind: MismatchKind) -> tuple[str, ...]:
        """The mismatches of one kind."""
        return tuple(self._notes[kind])

    def check(self, strict: Collection[MismatchKind], where: Path) -> None:
        """Raise for the first kind of `strict` that was noted.

        Raises:
            DataError: Gives their number, the first ones and the remedy.
        """
        for kind in MISMATCH_KINDS:
            notes = self._notes[kind]
            if kind not in strict or not notes:
                continue
            meaning, fix = _MEANING[kind]
            advice = fix.format(kind=kind) or f"correct the data, or take {kind} out of prepare.strict"
            error = self._errors.get(kind)
            if error is not None:
                more = f" (and {len(notes) - 1} more: {meaning})" if len(notes) > 1 else ""
                raise DataError(f"{error.what}{more}", where=error.where, fix=error.fix or advice)
            shown = "; ".join(notes[:3]) + (" …" if len(notes) > 3 else "")
            raise DataError(f"{len(notes)} {meaning}: {shown}", where=where, fix=advice)

    def report(self, strict: Collection[MismatchKind]) -> dict[str, Any]:
        """Return all kinds with their counts and the first items of each, for audit.json."""
        return {
            kind: {
                "meaning": _MEANING[kind][0],
                "strict": kind in strict,
                "total": len(notes),
                "listed": notes[:LISTED],
            }
            for kind, notes in self._notes.items()
        }


def describe_pairs(pairs: Sequence[Pair], vocabulary: Vocabulary, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Count pairs, flags, captions and words.

    Args:
        pairs: All pairs.
        vocabulary: Splits captions into words and says which are known.
        sizes: Pairs per image size ("256×256").

    Returns:
        JSON-able numbers: per split the pairs, changed and unchanged ones, captions, distinct captions, mean and
        greatest length in words, and the share of words that the vocabulary knows (None without captions).
    """
    return {
        "splits": {
            split: _describe_split([pair for pair in pairs if pair.split == split], vocabulary) for split in SPLITS
        },
        "vocabulary": {"words": len(vocabulary.words), "size": vocabulary.size},
        "image_sizes": dict(sorted(sizes.items())),
    }


def _describe_split(pairs: Sequence[Pair], vocabulary: Vocabulary) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    lengths: list[int] = []
    for pair in pairs:
        for caption in pair.captions:
            tokens = vocabulary.tokenize(caption)
            lengths.append(len(tokens))
            counts.update(tokens)
    in_vocabulary = sum(count for word, count in counts.items() if word in vocabulary.index)
    flags = Counter(pair.changed for pair in pairs)
    return {
        "pairs": len(pairs),
        "changed": flags[True],
        "unchanged": flags[False],
        "unknown": flags[None],
        "captions": len(lengths),
        "distinct_captions": len({caption for pair in pairs for caption in pair.captions}),
        "mean_words": round(sum(lengths) / len(lengths), 3) if lengths else None,
        "longest_words": max(lengths, default=None),
        "distinct_words": len(counts),
        "known_share": round(in_vocabulary / sum(lengths), 6) if lengths else None,
    }
