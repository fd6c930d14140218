"""Two captioners that look at no picture: the best constant sentence, and the true flag with a generic sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.datasets.records import Pair
from pipeline.evaluation.constants import LONGEST, ConstantScorer
from pipeline.evaluation.subsets import SUBSETS, Subset, split_by_change

# Sentences that differ only by rounding are equally good: BLEU's guards against zero leave their trace at 1e-12.
_DIGITS = 9


def best_constants(training: Sequence[Pair], tokens: Mapping[str, str], candidates: int) -> dict[Subset, str | None]:
    """Choose, for each subset, the training caption that describes the training pairs of that subset best.

    Candidates are the most frequent distinct captions of the subset's training pairs; the measure is the mean of
    BLEU-4, ROUGE-L and CIDEr-D over those pairs, which is S*m without METEOR. Equally good ones are told apart by
    their score over all training pairs, then by frequency, then by the alphabet. The captions of the evaluated split
    play no part.

    Args:
        training: Pairs of the training split.
        tokens: The tokens of each of their captions, as the metrics see them.
        candidates: How many distinct captions to try.

    Returns:
        A caption by subset; None where the subset has no training captions.
    """
    described = [pair for pair in training if any(tokens[text] for text in pair.captions)]
    scorers: dict[Subset, ConstantScorer] = {}
    chosen: dict[Subset, str | None] = {}
    subsets = split_by_change(described)
    for subset in reversed(SUBSETS):
        pairs = subsets[subset]
        counts = Counter(text for pair in pairs for text in pair.captions if _measurable(tokens[text]))
        if not counts:
            chosen[subset] = None
            continue
        scorers[subset] = ConstantScorer([[tokens[text] for text in pair.captions] for pair in pairs])
        # Spellings that differ in punctuation alone are one sentence; its commonest spelling stands for it.
        spellings: dict[str, str] = {}
        frequency: Counter[str] = Counter()
        for text, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            spellings.setdefault(tokens[text], text)
            frequency[tokens[text]] += count
        ranked = sorted(frequency, key=lambda sentence: (-frequency[sentence], sentence))[:candidates]
        values = {sentence: round(scorers[subset].score(sentence).mean, _DIGITS) for sentence in ranked}
        best = [sentence for sentence in ranked if values[sentence] == max(values.values())]
        overall = scorers["all"]
        chosen[subset] = spellings[max(best, key=lambda sentence: round(overall.score(sentence).mean, _DIGITS))]
    return {subset: chosen[subset] for subset in SUBSETS}


def _measurable(sentence: str) -> bool:
    return 0 < len(sentence.split()) <= LONGEST


def constant_captions(pairs: Sequence[Pair], sentence: str | None) -> dict[str, str] | None:
    """Return `sentence` for every pair; None when there is no sentence."""
    return None if sentence is None else {pair.id: sentence for pair in pairs}


def true_flag_captions(pairs: Sequence[Pair], constants: Mapping[Subset, str | None]) -> dict[str, str] | None:
    """Return the generic sentence of each pair's true flag: the best constant of changed or of unchanged pairs.

    None when a pair has no flag, or there is no sentence for one that occurs.
    """
    captions: dict[str, str] = {}
    for pair in pairs:
        sentence = None if pair.changed is None else constants["changed" if pair.changed else "unchanged"]
        if sentence is None:
            return None
        captions[pair.id] = sentence
    return captions
