"""Checking the captions of pairs: empty ones, change flags, and what the two say about each other."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.datasets.audit import Audit
from pipeline.datasets.records import Pair
from pipeline.errors import DataError
from pipeline.language.no_change import implies_change
from pipeline.language.settings import VocabularySettings
from pipeline.language.tokenizer import tokenize
from pipeline.language.vocabulary import too_long_error


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
