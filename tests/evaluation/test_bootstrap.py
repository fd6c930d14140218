from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.bootstrap import (
    PairStatistics,
    compare,
    draw_resamples,
    intervals,
    pair_statistics,
    resampled_bleu_4,
)
from pipeline.evaluation.scores import Corpus, corpus_of, score_corpora
from tests.evaluation.conftest import CANDIDATES, REFERENCES
from tests.evaluation.plain_scores import plain_bleu_4

WORDS = ("road", "house", "tree", "is", "built", "the", "a", "near", "north", "removed")


def corpus(seed: int, pairs: int = 40) -> Corpus:
    """Sentences of random words; candidates that share words with their references."""
    random = np.random.default_rng(seed)

    def sentence() -> list[str]:
        return list(random.choice(WORDS, size=random.integers(3, 12)))

    # The references are the same for every seed.
    fixed = np.random.default_rng(0)
    references = tuple(
        tuple(" ".join(fixed.choice(WORDS, size=fixed.integers(4, 12))) for _ in range(3)) for _ in range(pairs)
    )
    candidates = tuple(" ".join(texts[0].split()[: random.integers(3, 9)] + sentence()[:2]) for texts in references)
    return Corpus(candidates, references)


@pytest.mark.parametrize("captions", [corpus(1), corpus(2, 1), corpus_of(CANDIDATES, REFERENCES, tuple(CANDIDATES))])
def test_the_corpus_itself_scores_as_pycocoevalcap_says(captions: Corpus) -> None:
    statistics, scores = pair_statistics(captions), score_corpora([captions], None)[0]
    assert statistics.bleu.shape == (len(captions.candidates), 10) and statistics.cider_d.shape == (
        len(captions.candidates),
    )
    assert 100 * resampled_bleu_4(statistics.bleu.sum(axis=0)) == pytest.approx(scores.bleu_4, abs=1e-9, rel=0)
    assert 100 * statistics.cider_d.mean() == pytest.approx(scores.cider_d, abs=1e-9, rel=0)


def test_each_resample_has_as_many_pairs_and_the_same_seed_draws_the_same() -> None:
    drawn = draw_resamples(7, 50, seed=3)
    assert drawn.shape == (50, 7) and (drawn.sum(axis=1) == 7).all() and drawn.max() > 1
    assert (drawn == draw_resamples(7, 50, seed=3)).all() and (drawn != draw_resamples(7, 50, seed=4)).any()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(7), abs=0.5)


def test_an_interval_equals_a_plain_loop() -> None:
    seeds = {1: corpus(1), 2: corpus(2)}
    statistics = {seed: pair_statistics(captions) for seed, captions in seeds.items()}
    resampled: dict[str, list[float]] = {"bleu_4": [], "cider_d": []}
    for weights in draw_resamples(40, 60, seed=5):
        rows = np.repeat(np.arange(40), weights)
        texts = [([c.candidates[i] for i in rows], [c.references[i] for i in rows]) for c in seeds.values()]
        resampled["bleu_4"].append(float(np.mean([100 * plain_bleu_4(*text) for text in texts])))
        resampled["cider_d"].append(
            float(np.mean([100 * counted.cider_d[rows].mean() for counted in statistics.values()]))
        )
    for metric, interval in intervals(statistics, resamples=60, seed=5).items():
        assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(resampled[metric], (0.025, 0.975))))
        assert interval.low < interval.high


def test_a_comparison_equals_a_plain_loop() -> None:
    first, second = {1: corpus(1), 2: corpus(2)}, {2: corpus(3), 1: corpus(4), 9: corpus(5)}
    statistics = [{seed: pair_statistics(made) for seed, made in side.items()} for side in (first, second)]
    comparisons = compare(*statistics, resamples=60, seed=5)

    differences: dict[str, list[float]] = {"bleu_4": [], "cider_d": []}
    for weights in (np.ones(40, int), *draw_resamples(40, 60, seed=5)):
        rows = np.repeat(np.arange(40), weights)
        scores: dict[str, list[float]] = {"bleu_4": [], "cider_d": []}
        for side, counted in zip((first, second), statistics, strict=True):
            corpora = [side[seed] for seed in (1, 2)]
            texts = [([c.candidates[i] for i in rows], [c.references[i] for i in rows]) for c in corpora]
            scores["bleu_4"].append(float(np.mean([100 * plain_bleu_4(*text) for text in texts])))
            means = [100 * np.mean([counted[seed].cider_d[i] for i in rows]) for seed in (1, 2)]
            scores["cider_d"].append(float(np.mean(means)))
        for metric, (one, other) in scores.items():
            differences[metric].append(one - other)
    for metric, (observed, *resampled) in differences.items():
        assert comparisons[metric].difference == pytest.approx(observed, abs=1e-6)
        rarer = min(sum(d <= 0 for d in resampled), sum(d >= 0 for d in resampled))
        assert comparisons[metric].p == pytest.approx(min(1, 2 * (rarer + 1) / 61))
        assert comparisons[metric].low == pytest.approx(np.quantile(resampled, 0.025), abs=1e-6)
        assert comparisons[metric].high == pytest.approx(np.quantile(resampled, 0.975), abs=1e-6)


def test_equals_are_not_told_apart_and_better_ones_are() -> None:
    captions = corpus(1)
    same = {1: pair_statistics(captions)}
    assert compare(same, same, resamples=100, seed=0)["cider_d"].as_dict() == {
        "difference": 0.0,
        "low": 0.0,
        "high": 0.0,
        "p": 1.0,
    }
    better = {1: pair_statistics(Corpus(tuple(texts[0] for texts in captions.references), captions.references))}
    for metric, comparison in compare(better, same, resamples=199, seed=0).items():
        assert comparison.difference > 0 and comparison.low > 0 and comparison.p == pytest.approx(0.01), metric
        worse = compare(same, better, resamples=199, seed=0)[metric]
        assert (worse.difference, worse.p) == (-comparison.difference, comparison.p)


def test_the_guards_against_zero_decide_nothing() -> None:
    references = (("a b c d e",), ("f g h i",), ("i j k l",))
    one = {1: pair_statistics(Corpus(("a b c x x", "f g h x", "i j k x"), references))}
    other = {1: pair_statistics(Corpus(("a b x x", "f g x x", "j k x x"), references))}
    comparison = compare(one, other, resamples=100, seed=0)["bleu_4"]
    assert (comparison.difference, comparison.low, comparison.high, comparison.p) == (0, 0, 0, 1)


def test_captioners_without_common_seed_or_pairs_are_refused() -> None:
    one, short = pair_statistics(corpus(1)), pair_statistics(corpus(1, 3))
    with pytest.raises(ValueError, match="no seed in common"):
        compare({1: one}, {2: one}, resamples=2, seed=0)
    with pytest.raises(ValueError, match="different pairs"):
        compare({1: one}, {1: short}, resamples=2, seed=0)
    assert isinstance(one, PairStatistics)
