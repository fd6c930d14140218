from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.constants import LONGEST, ConstantScorer
from pipeline.evaluation.scores import score

WORDS = ("road", "house", "tree", "built", "the", "a", "many", "near")


def corpus(seed: int, pairs: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    known = [" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(pairs)]
    return [[known[index] for index in rng.integers(0, pairs, size=rng.integers(1, 6))] for _ in range(pairs)]


@pytest.mark.parametrize("seed", range(4))
def test_a_constant_scores_what_pycocoevalcap_says(seed: int) -> None:
    references = corpus(seed, 30)
    scorer = ConstantScorer(references)
    # Known, unknown, of one word, with repetitions, longer than all references.
    sentences = [references[3][0], "the unknown pool", "road", "the the the the", " ".join(WORDS * 3)]
    for sentence in sentences:
        found = scorer.score(sentence)
        wanted = score(
            {str(place): sentence for place in range(len(references))},
            {str(place): texts for place, texts in enumerate(references)},
            tokenized=True,
            meteor=False,
        )
        assert 100 * found.bleu_4 == pytest.approx(wanted.bleu_4, abs=1e-9)
        assert 100 * found.rouge_l == pytest.approx(wanted.rouge_l, abs=1e-9)
        assert 100 * found.cider_d == pytest.approx(wanted.cider_d, abs=1e-9)
        assert found.mean == pytest.approx((found.bleu_4 + found.rouge_l + found.cider_d) / 3)


def test_an_empty_reference_counts_as_in_pycocoevalcap() -> None:
    references = [["", "a road"], ["many houses"]]
    wanted = score(
        {"0": "a road", "1": "a road"}, dict(zip("01", references, strict=True)), tokenized=True, meteor=False
    )
    found = ConstantScorer(references).score("a road")
    assert 100 * found.rouge_l == pytest.approx(wanted.rouge_l, abs=1e-9)
    assert 100 * found.cider_d == pytest.approx(wanted.cider_d, abs=1e-9)


@pytest.mark.parametrize("words", [0, LONGEST + 1])
def test_a_sentence_without_words_or_too_long_is_refused(words: int) -> None:
    with pytest.raises(ValueError, match="cannot be measured"):
        ConstantScorer([["a road"]]).score(" ".join(["road"] * words))


def test_the_longest_sentence_is_measured() -> None:
    words = [f"w{number}" for number in range(LONGEST)]
    assert ConstantScorer([[" ".join(words)], ["x"]]).score(" ".join(words)).rouge_l == pytest.approx(0.5)
