"""Paired bootstrap over pairs: whether one captioner is better than another beyond chance (Koehn, 2004)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.scores import Corpus

COMPARED: Final = ("cider_d", "bleu_4")
"""Metrics that are compared."""

_ORDERS: Final = 4
_CORRECT, _GUESSED = slice(0, _ORDERS), slice(_ORDERS, 2 * _ORDERS)
_LENGTH, _CLOSEST = 2 * _ORDERS, 2 * _ORDERS + 1
# pycocoevalcap's guards against dividing by zero.
_SMALL, _TINY = 1e-9, 1e-15
_CENTRAL: Final = (0.025, 0.975)
# Differences below these digits come from rounding alone and count as 0.
_DIGITS = 9


@dataclass(frozen=True)
class PairStatistics:
    """Sufficient statistics of every pair, from which any resample of a corpus is scored.

    Attributes:
        bleu: (pairs, 10) int64: clipped and all n-grams of the candidate for n = 1…4, its length in words, and that of
            the closest reference. BLEU is a score of their sums over the pairs, not a mean over pairs.
        cider_d: (pairs,) float64: each pair's CIDEr-D in [0, 10], with the document frequencies of the whole corpus. A
            resample keeps them: they belong to the metric, not to the captions.
    """

    bleu: NDArray[np.int64]
    cider_d: NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Difference between two captioners' scores, times 100 like the scores.

    Attributes:
        difference: The first captioner's score less the second's, on the corpus itself.
        low: Lower end of the differences' central 95 % over resamples.
        high: Upper end.
        p: Two-sided: twice the share of resamples on the rarer side of 0, at least 2 / (resamples + 1), at most 1.
            Equal scores count on both sides.
    """

    difference: float
    low: float
    high: float
    p: float

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)


@dataclass(frozen=True)
class Interval:
    """Central 95 % of a score over resamples of the pairs, times 100 like the score.

    Attributes:
        low: Lower end.
        high: Upper end.
    """

    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)


def pair_statistics(corpus: Corpus) -> PairStatistics:
    """Count the statistics of every pair of a tokenized corpus, which must not be empty."""
    from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    bleu = np.empty((len(corpus.candidates), 2 * _ORDERS + 2), np.int64)
    cider = CiderScorer(n=_ORDERS, sigma=6.0)
    for row, (candidate, references) in enumerate(corpus.segments):
        counts = cook_test(candidate, cook_refs(list(references), n=_ORDERS), eff="closest", n=_ORDERS)
        bleu[row] = (*counts["correct"], *counts["guess"], counts["testlen"], counts["reflen"])
        cider += (candidate, list(references))
    return PairStatistics(bleu, np.asarray(cider.compute_score()[1], np.float64))


def resampled_bleu_4(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return pycocoevalcap's BLEU-4 in [0, 1] of sums (…, 10) of `PairStatistics.bleu` over pairs.

    Vectorised for thousands of resamples: pycocoevalcap scores one corpus a call, and the last digit of some differs.
    """
    precisions = (sums[..., _CORRECT] + _TINY) / (sums[..., _GUESSED] + _SMALL)
    ratio = (sums[..., _LENGTH] + _TINY) / (sums[..., _CLOSEST] + _SMALL)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    bleu: NDArray[np.float64] = precisions.prod(axis=-1) ** (1 / _ORDERS) * brevity
    return bleu


def draw_resamples(pairs: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Draw `pairs` pairs with replacement `resamples` times; return how often each was drawn, (resamples, pairs)."""
    drawn = np.random.default_rng(seed).integers(pairs, size=(resamples, pairs))
    drawn += pairs * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * pairs).reshape(resamples, pairs)


def compare(
    first: Mapping[int, PairStatistics], second: Mapping[int, PairStatistics], *, resamples: int, seed: int
) -> dict[str, Comparison]:
    """Compare two captioners on the same pairs, each trained with several seeds.

    Both are scored on the same resamples; a score is the mean over the seeds that both have.

    Args:
        first: Statistics of the first captioner by training seed.
        second: Those of the second, pairs in the same order.
        resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        A comparison for each metric of `COMPARED`.

    Raises:
        ValueError: They have no seed in common, or not the same number of pairs.
    """
    common = sorted(first.keys() & second.keys())
    if not common:
        raise ValueError("the captioners have no seed in common")
    pairs = len(first[common[0]].cider_d)
    weights = np.concatenate([np.ones((1, pairs), np.int64), draw_resamples(pairs, resamples, seed)])
    one, other = (_scores([seeds[number] for number in common], weights) for seeds in (first, second))
    return {metric: _comparison(one[metric] - other[metric]) for metric in COMPARED}


def intervals(seeds: Mapping[int, PairStatistics], *, resamples: int, seed: int) -> dict[str, Interval]:
    """Return how far a captioner's score depends on the pairs that were drawn: it says nothing of other seeds.

    Args:
        seeds: Its statistics by training seed, of which there must be one; a score is the mean over them.
        resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        An interval for each metric of `COMPARED`.
    """
    statistics = list(seeds.values())
    weights = draw_resamples(len(statistics[0].cider_d), resamples, seed)
    scores = _scores(statistics, weights)
    return {metric: Interval(*np.quantile(scores[metric], _CENTRAL).tolist()) for metric in COMPARED}


def _scores(seeds: Sequence[PairStatistics], weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    pairs = weights.shape[1]
    if any(len(statistics.cider_d) != pairs for statistics in seeds):
        raise ValueError("the captioners describe different pairs")
    bleu = np.mean([_bleu_without_guards(weights @ statistics.bleu) for statistics in seeds], axis=0)
    cider_d = np.mean([weights @ statistics.cider_d / pairs for statistics in seeds], axis=0)
    return {"bleu_4": 100 * bleu, "cider_d": 100 * cider_d}


def _bleu_without_guards(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return BLEU-4 with 0 where no 4-gram is correct; the guards against zero would leave up to 0.0002 there."""
    return np.where(sums[..., _ORDERS - 1] == 0, 0.0, resampled_bleu_4(sums))


def _comparison(differences: NDArray[np.float64]) -> Comparison:
    """Summarise differences in score: the first is that of the corpus itself, the others those of its resamples."""
    resampled = differences[1:]
    low, high = np.quantile(resampled, _CENTRAL)
    rounded = resampled.round(_DIGITS)
    rarer = min(int((rounded <= 0).sum()), int((rounded >= 0).sum()))
    p = min(1.0, 2 * (rarer + 1) / (len(resampled) + 1))
    return Comparison(float(differences[0]), float(low), float(high), p)
