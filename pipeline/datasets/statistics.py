"""Numbers about a prepared data set, for audit.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.datasets.records import SPLITS, Pair
from pipeline.language.vocabulary import Vocabulary


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
        "splits": {split: _split([pair for pair in pairs if pair.split == split], vocabulary) for split in SPLITS},
        "vocabulary": {"words": len(vocabulary.words), "size": vocabulary.size},
        "image_sizes": dict(sorted(sizes.items())),
    }


def _split(pairs: Sequence[Pair], vocabulary: Vocabulary) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    lengths: list[int] = []
    for pair in pairs:
        for caption in pair.captions:
            tokens = vocabulary.tokenize(caption)
            lengths.append(len(tokens))
            counts.update(tokens)
    known = sum(count for word, count in counts.items() if word in vocabulary.index)
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
        "known_share": round(known / sum(lengths), 6) if lengths else None,
    }
