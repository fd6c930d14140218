"""Baselines that see no image: the best constant sentence, and the true change flag with a generic sentence.

The constant is the best of 1,000 training captions. `ConstantScorer` computes the ROUGE-L and CIDEr-D of a constant
itself because pycocoevalcap walks all pairs again for every candidate: 400 s instead of 2 s for the default world,
85 min instead of 13 s for LEVIR-CC (one thread). Tests hold it equal to pycocoevalcap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.records import Pair
from pipeline.evaluation.scores import SUBSETS, Subset, bleu_4, split_by_change

_ORDERS: Final = (1, 2, 3, 4)
_SIGMA: Final = 6.0
_BETA: Final = 1.2
LONGEST: Final = 63
"""Words of the longest sentence that can be measured: one bit of a 64-bit word each."""

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class ConstantScores:
    """Scores of one sentence as the caption of every pair, as fractions: BLEU-4, ROUGE-L and CIDEr-D."""

    bleu_4: float
    rouge_l: float
    cider_d: float

    @property
    def mean(self) -> float:
        """Mean of the three: S*m without METEOR."""
        return (self.bleu_4 + self.rouge_l + self.cider_d) / 3


class ConstantScorer:
    """Scorer of a constant caption: pycocoevalcap's scores of that caption repeated for every pair, in milliseconds.

    The references are indexed once by n-gram (n-gram → sentences that contain it), so scoring a sentence costs its own
    few n-grams, not a pass over all pairs.

    Args:
        references: Tokenized references of each pair, one or more of each; words are separated by spaces.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        flat = [sentence for sentences in references for sentence in sentences]
        position: dict[str, int] = {}
        self._sentence = np.array([position.setdefault(text, len(position)) for text in flat])
        words = [text.split() for text in position]
        sizes = np.array([len(sentences) for sentences in references])
        self._pairs = len(references)
        self._starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        self._lengths = np.array([len(sentence) for sentence in words])
        # Weight of a distinct sentence in a mean over the references of a pair, then over pairs.
        weights = np.repeat(1 / (sizes * self._pairs), sizes)
        self._weights = np.bincount(self._sentence, weights=weights, minlength=len(words))

        counts = [_counts(sentence) for sentence in words]
        self._index_clips(counts, sizes)
        self._index_weights(counts)
        self._index_words(words)

    def score(self, sentence: str) -> ConstantScores:
        """Return the scores of `sentence`, tokens separated by spaces.

        Raises:
            ValueError: It has no words, or more than `LONGEST`.
        """
        words = sentence.split()
        if not 0 < len(words) <= LONGEST:
            raise ValueError(f"a sentence of {len(words)} words cannot be measured")
        counts = _counts(words)
        return ConstantScores(self._bleu_4(words, counts), self._rouge_l(words), self._cider_d(counts))

    def _index_clips(self, counts: Sequence[Counter[Ngram]], sizes: NDArray[np.int64]) -> None:
        # For BLEU: how often each n-gram occurs at most in one reference of a pair, as a histogram over pairs.
        clips: dict[Ngram, Counter[int]] = {}
        document: Counter[Ngram] = Counter()
        seen: Counter[tuple[int, ...]] = Counter(
            tuple(self._sentence[start : start + size]) for start, size in zip(self._starts, sizes, strict=True)
        )
        for sentences, repeats in seen.items():
            highest: dict[Ngram, int] = {}
            for sentence in set(sentences):
                for ngram, count in counts[sentence].items():
                    highest[ngram] = max(highest.get(ngram, 0), count)
            for ngram, count in highest.items():
                document[ngram] += repeats
                clips.setdefault(ngram, Counter())[count] += repeats
        self._clips, self._document = clips, document

    def _index_weights(self, counts: Sequence[Counter[Ngram]]) -> None:
        # For CIDEr-D: tf-idf weight of each n-gram in each distinct sentence that holds it, and the sentences' norms.
        rows: dict[Ngram, list[int]] = {}
        values: dict[Ngram, list[float]] = {}
        squares = np.zeros((len(counts), len(_ORDERS)))
        idf = {ngram: np.log(self._pairs) - np.log(count) for ngram, count in self._document.items()}
        for sentence, ngrams in enumerate(counts):
            for ngram, count in ngrams.items():
                weight = count * idf[ngram]
                rows.setdefault(ngram, []).append(sentence)
                values.setdefault(ngram, []).append(weight)
                squares[sentence, len(ngram) - 1] += weight * weight
        self._idf = idf
        self._norms = np.sqrt(squares)
        self._postings = {ngram: (np.array(rows[ngram]), np.array(values[ngram])) for ngram in rows}

    def _index_words(self, words: Sequence[Sequence[str]]) -> None:
        # For ROUGE-L: sentences as rows of word numbers; 0 pads.
        self._numbers: dict[str, int] = {}
        longest = max(len(sentence) for sentence in words)
        self._matrix = np.zeros((longest, len(words)), dtype=np.int64)
        for column, sentence in enumerate(words):
            for row, word in enumerate(sentence):
                self._matrix[row, column] = self._numbers.setdefault(word, len(self._numbers) + 1)

    def _bleu_4(self, words: Sequence[str], counts: Counter[Ngram]) -> float:
        correct = dict.fromkeys(_ORDERS, 0)
        for ngram, count in counts.items():
            for clip, pairs in self._clips.get(ngram, {}).items():
                correct[len(ngram)] += pairs * min(count, clip)
        guesses = [self._pairs * max(0, len(words) - order + 1) for order in _ORDERS]
        lengths = self._lengths[self._sentence]
        # The closest length, the shorter of two equally close: one key sorts by both.
        scale = int(self._lengths.max()) + 1
        closest = np.minimum.reduceat(np.abs(lengths - len(words)) * scale + lengths, self._starts) % scale
        return bleu_4(list(correct.values()), guesses, self._pairs * len(words), int(closest.sum()))

    def _rouge_l(self, words: Sequence[str]) -> float:
        common = self._common_subsequences(words)
        # pycocoevalcap counts an empty reference as one empty word.
        recall = (common / np.maximum(self._lengths, 1))[self._sentence]
        precision = (common / len(words))[self._sentence]
        best_recall = np.maximum.reduceat(recall, self._starts)
        best_precision = np.maximum.reduceat(precision, self._starts)
        below = best_recall + _BETA**2 * best_precision
        score = (1 + _BETA**2) * best_precision * best_recall / np.where(below > 0, below, 1)
        return float(score.mean())

    def _common_subsequences(self, words: Sequence[str]) -> NDArray[np.int64]:
        # Bit-parallel length of the longest common subsequence (Hyyrö, 2004): bit i of a state stands for word i.
        masks = np.zeros(len(self._numbers) + 1, dtype=np.uint64)
        for position, word in enumerate(words):
            number = self._numbers.get(word)
            if number is not None:
                masks[number] |= np.uint64(1 << position)
        everything = np.uint64((1 << len(words)) - 1)
        state: NDArray[np.uint64] = np.full(self._matrix.shape[1], everything, dtype=np.uint64)
        for row in masks[self._matrix]:
            matched: NDArray[np.uint64] = np.bitwise_and(state, row)
            state = (state + matched) | (state - matched)
        common: NDArray[np.int64] = len(words) - np.bitwise_count(state & everything).astype(np.int64)
        return common

    def _cider_d(self, counts: Counter[Ngram]) -> float:
        unseen = float(np.log(self._pairs))
        weights = {ngram: count * float(self._idf.get(ngram, unseen)) for ngram, count in counts.items()}
        similarity = np.zeros_like(self._norms)
        squares = np.zeros(len(_ORDERS))
        for ngram, weight in weights.items():
            order = len(ngram) - 1
            squares[order] += weight * weight
            if ngram in self._postings:
                rows, values = self._postings[ngram]
                similarity[rows, order] += np.minimum(weight, values) * values
        norms = self._norms * np.sqrt(squares)
        similarity = np.divide(similarity, norms, out=similarity, where=norms > 0)
        # CIDEr-D compares lengths by the number of bigrams.
        difference = max(0, sum(counts[ngram] for ngram in counts if len(ngram) == 2)) - np.maximum(
            self._lengths - 1, 0
        )
        penalty = np.exp(-(difference**2) / (2 * _SIGMA**2))
        return float(10 * np.sum(self._weights * similarity.mean(axis=1) * penalty))


def _counts(words: Sequence[str]) -> Counter[Ngram]:
    return Counter(tuple(words[start : start + order]) for order in _ORDERS for start in range(len(words) - order + 1))


# Scores that differ by rounding alone are ties: BLEU's guards against zero leave a trace of 1e-12.
_DIGITS = 9


def best_constants(training: Sequence[Pair], tokens: Mapping[str, str], candidates: int) -> dict[Subset, str | None]:
    """Choose for each subset the training caption with the best scores on the training pairs of that subset.

    Candidates are the most frequent distinct captions of the subset's training pairs; the measure is the mean of
    BLEU-4, ROUGE-L and CIDEr-D over those pairs, which is S*m without METEOR. Ties are broken by the score over all
    training pairs, then by frequency, then alphabetically. The captions of the evaluated split are not used.

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
        # Captions with the same tokens are one candidate; the commonest spelling represents it.
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
