"""BLEU-4 and CIDEr-D against references that stay: what a training asks for at every validation.

pycocoevalcap counts the references, weighs their n-grams and takes their norms anew at each call; here that is done
once. The candidates are scored by the same operations in the same order, so that the scores are equal to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer, cook_refs, cook_test
from pycocoevalcap.cider.cider_scorer import CiderScorer, precook

from pipeline.evaluation.scores import Corpus, check_corpus

_ORDERS = 4
_SIGMA = 6.0
_FACTOR = 10.0


class _Vector(NamedTuple):
    """A sentence's n-grams as CIDEr-D weighs them: for each n their weights and the norm; and its length in bigrams."""

    weights: tuple[dict[tuple[str, ...], float], ...]
    norms: tuple[float, ...]
    length: int


class ReferenceScorer:
    """Scores one candidate per pair against fixed references.

    A caption that was scored for its pair before is not scored again: of the pairs without change most keep theirs from
    one validation to the next.

    Args:
        references: For each pair its captions, tokens joined by single spaces.

    Raises:
        DataError: There are no pairs, a pair has no reference, or no reference has a word.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        check_corpus(Corpus(tuple("" for _ in references), tuple(map(tuple, references))))
        self._bleu_references = [cook_refs(list(texts), n=_ORDERS) for texts in references]
        counts = [[precook(text, _ORDERS) for text in texts] for texts in references]
        document = CiderScorer(n=_ORDERS, sigma=_SIGMA)
        document.crefs = counts
        document.compute_doc_freq()
        self._log_pairs: float = np.log(float(len(references)))
        self._rarity: dict[tuple[str, ...], float] = {
            ngram: self._log_pairs - np.log(max(1.0, pairs)) for ngram, pairs in document.document_frequency.items()
        }
        vectors = {text: self._vector(text) for text in {text for texts in references for text in texts}}
        self._vectors = [[vectors[text] for text in texts] for texts in references]
        self._scored: dict[tuple[int, str], tuple[Any, float]] = {}

    def score(self, candidates: Sequence[str]) -> tuple[float, float]:
        """Return BLEU-4 and CIDEr-D, times 100, of a candidate for each pair: those of `pipeline.evaluation.score`.

        Args:
            candidates: In the order of the references; tokens joined by single spaces.

        Raises:
            ValueError: Their number is another.
        """
        pairs = range(len(self._vectors))
        scored = [self._score(pair, text) for pair, text in zip(pairs, candidates, strict=True)]
        scorer = BleuScorer(n=_ORDERS)
        scorer.crefs = self._bleu_references
        scorer.ctest = [counts for counts, _ in scored]
        bleu = scorer.compute_score(option="closest", verbose=0)[0]
        return 100.0 * float(bleu[-1]), 100.0 * float(np.mean(np.array([cider for _, cider in scored])))

    def _score(self, pair: int, text: str) -> tuple[Any, float]:
        if (pair, text) not in self._scored:
            counts = cook_test(text, self._bleu_references[pair], eff=None, n=_ORDERS)
            self._scored[pair, text] = counts, self._cider_d(text, self._vectors[pair])
        return self._scored[pair, text]

    def _vector(self, text: str) -> _Vector:
        weights: tuple[dict[tuple[str, ...], float], ...] = tuple({} for _ in range(_ORDERS))
        squares = [0.0] * _ORDERS
        length = 0
        for ngram, count in precook(text, _ORDERS).items():
            order = len(ngram) - 1
            weight = float(count) * self._rarity.get(ngram, self._log_pairs)
            weights[order][ngram] = float(weight)
            squares[order] += pow(weight, 2)
            length += count if order == 1 else 0
        return _Vector(weights, tuple(float(np.sqrt(square)) for square in squares), length)

    def _cider_d(self, text: str, references: Sequence[_Vector]) -> float:
        candidate = self._vector(text)
        totals = np.zeros(_ORDERS)
        for reference in references:
            totals += [_similarity(candidate, reference, order) for order in range(_ORDERS)]
        return float(np.mean(totals) / len(references) * _FACTOR)


def _similarity(candidate: _Vector, reference: _Vector, order: int) -> float:
    """Return the clipped cosine of two sentences' n-grams, less for a difference in length (equation 4)."""
    of_reference = reference.weights[order]
    value = 0.0
    for ngram, weight in candidate.weights[order].items():
        other = of_reference.get(ngram, 0.0)
        value += min(weight, other) * other
    norms = candidate.norms[order], reference.norms[order]
    if all(norms):
        value /= norms[0] * norms[1]
    difference = float(candidate.length - reference.length)
    return float(value * math.e ** (-(difference**2) / (2 * _SIGMA**2)))
