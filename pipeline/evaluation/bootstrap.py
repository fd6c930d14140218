"""Is one captioner better than another, or were the pairs kind to it? The paired bootstrap (Koehn, 2004)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.scores import Corpus

COMPARED: Final = ("cider_d", "bleu_4")
"""The metrics that are compared."""

_ORDERS: Final = 4
_CORRECT, _GUESSED = slice(0, _ORDERS), slice(_ORDERS, 2 * _ORDERS)
_LENGTH, _CLOSEST = 2 * _ORDERS, 2 * _ORDERS + 1
# pycocoevalcap's guards against dividing by zero.
_SMALL, _TINY = 1e-9, 1e-15
# Differences that only rounding makes are none.
_DIGITS = 9


@dataclass(frozen=True)
class PairStatistics:
    """What the scores of any resample of a corpus are made of.

    Attributes:
        bleu: (pairs, 10) int64: clipped and all n-grams of the candidate for n = 1…4, its length in words, and that of
            the closest reference. BLEU is a score of their sums over the pairs, not a mean over pairs.
        cider_d: (pairs,) float64: each pair's CIDEr-D in [0, 10], with the document frequencies of the whole corpus. A
            resample keeps them: they belong to the measure, not to what is measured.
    """

    bleu: NDArray[np.int64]
    cider_d: NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """How much better a captioner is than another, times 100 like the scores.

    Attributes:
        difference: Its score less the other's, on the pairs as they are.
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


def pair_statistics(corpus: Corpus) -> PairStatistics:
    """Count, once, what all resamples of a tokenized corpus are scored from; it must not be empty."""
    from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    bleu = np.empty((len(corpus.candidates), 2 * _ORDERS + 2), np.int64)
    cider = CiderScorer(n=_ORDERS, sigma=6.0)
    for row, (candidate, references) in enumerate(corpus.segments):
        counts = cook_test(candidate, cook_refs(list(references), n=_ORDERS), eff="closest", n=_ORDERS)
        bleu[row] = (*counts["correct"], *counts["guess"], counts["testlen"], counts["reflen"])
        cider += (candidate, list(references))
    return PairStatistics(bleu, np.asarray(cider.compute_score()[1], np.float64))


def bleu_4(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return BLEU-4 in [0, 1], as pycocoevalcap has it, of sums (…, 10) of `PairStatistics.bleu` over pairs."""
    precisions = (sums[..., _CORRECT] + _TINY) / (sums[..., _GUESSED] + _SMALL)
    ratio = (sums[..., _LENGTH] + _TINY) / (sums[..., _CLOSEST] + _SMALL)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    found: NDArray[np.float64] = precisions.prod(axis=-1) ** (1 / _ORDERS) * brevity
    return found


def draw_resamples(pairs: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Draw `pairs` pairs with replacement, `resamples` times; (resamples, pairs): how often each pair was drawn."""
    drawn = np.random.default_rng(seed).integers(pairs, size=(resamples, pairs))
    drawn += pairs * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * pairs).reshape(resamples, pairs)


def compare(
    these: Mapping[int, PairStatistics], others: Mapping[int, PairStatistics], *, resamples: int, seed: int
) -> dict[str, Comparison]:
    """Compare two captioners on the same pairs, each trained with several seeds.

    Pairs are resampled, the same for both; a score is the mean over the seeds that both have.

    Args:
        these: Seed → statistics of the one.
        others: Seed → statistics of the other, pairs in the same order.
        resamples: How often pairs are drawn.
        seed: Of the drawing.

    Returns:
        A comparison for each metric of `COMPARED`.

    Raises:
        ValueError: They have no seed in common, or not the same number of pairs.
    """
    common = sorted(these.keys() & others.keys())
    if not common:
        raise ValueError("the captioners have no seed in common")
    pairs = len(these[common[0]].cider_d)
    weights = np.concatenate([np.ones((1, pairs), np.int64), draw_resamples(pairs, resamples, seed)])
    one, other = (_scores([found[number] for number in common], weights) for found in (these, others))
    return {metric: _judge(one[metric] - other[metric]) for metric in COMPARED}


def _scores(seeds: Sequence[PairStatistics], weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    pairs = weights.shape[1]
    if any(len(found.cider_d) != pairs for found in seeds):
        raise ValueError("the captioners describe different pairs")
    bleu = np.mean([_without_trace(weights @ found.bleu) for found in seeds], axis=0)
    cider_d = np.mean([weights @ found.cider_d / pairs for found in seeds], axis=0)
    return {"bleu_4": 100 * bleu, "cider_d": 100 * cider_d}


def _without_trace(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return BLEU-4 with 0 for no right 4-gram, where the guards leave up to 0.0002 that tells captioners apart."""
    return np.where(sums[..., _ORDERS - 1] == 0, 0.0, bleu_4(sums))


def _judge(differences: NDArray[np.float64]) -> Comparison:
    """Judge differences of which the first is that of the pairs as they are, the rest those of resamples."""
    resampled = differences[1:]
    low, high = np.quantile(resampled, (0.025, 0.975))
    seen = resampled.round(_DIGITS)
    rarer = min(int((seen <= 0).sum()), int((seen >= 0).sum()))
    p = min(1.0, 2 * (rarer + 1) / (len(resampled) + 1))
    return Comparison(float(differences[0]), float(low), float(high), p)
