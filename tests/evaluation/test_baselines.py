from __future__ import annotations

import numpy as np
import pytest

from pipeline.datasets.records import Pair
from pipeline.evaluation.baselines import LONGEST, ConstantScorer, best_constants, constant_captions, true_flag_captions
from pipeline.evaluation.scores import plain_tokens, score

WORDS = ("road", "house", "tree", "built", "the", "a", "many", "near")


def corpus(seed: int, pairs: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    sentences = [" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(pairs)]
    return [[sentences[index] for index in rng.integers(0, pairs, size=rng.integers(1, 6))] for _ in range(pairs)]


@pytest.mark.parametrize("seed", range(4))
def test_a_constant_scores_what_pycocoevalcap_says(seed: int) -> None:
    references = corpus(seed, 30)
    scorer = ConstantScorer(references)
    # Known, unknown, of one word, with repetitions, longer than all references.
    sentences = [references[3][0], "the unknown pool", "road", "the the the the", " ".join(WORDS * 3)]
    for sentence in sentences:
        scores = scorer.score(sentence)
        expected = score(
            {str(pair): sentence for pair in range(len(references))},
            {str(pair): texts for pair, texts in enumerate(references)},
            tokenized=True,
            meteor=False,
        )
        assert 100 * scores.bleu_4 == pytest.approx(expected.bleu_4, abs=1e-9)
        assert 100 * scores.rouge_l == pytest.approx(expected.rouge_l, abs=1e-9)
        assert 100 * scores.cider_d == pytest.approx(expected.cider_d, abs=1e-9)
        assert scores.mean == pytest.approx((scores.bleu_4 + scores.rouge_l + scores.cider_d) / 3)


def test_an_empty_reference_counts_as_in_pycocoevalcap() -> None:
    references = [["", "a road"], ["many houses"]]
    expected = score(
        {"0": "a road", "1": "a road"}, dict(zip("01", references, strict=True)), tokenized=True, meteor=False
    )
    scores = ConstantScorer(references).score("a road")
    assert 100 * scores.rouge_l == pytest.approx(expected.rouge_l, abs=1e-9)
    assert 100 * scores.cider_d == pytest.approx(expected.cider_d, abs=1e-9)


@pytest.mark.parametrize("words", [0, LONGEST + 1])
def test_a_sentence_without_words_or_too_long_is_refused(words: int) -> None:
    with pytest.raises(ValueError, match="cannot be measured"):
        ConstantScorer([["a road"]]).score(" ".join(["road"] * words))


def test_the_longest_sentence_is_measured() -> None:
    words = [f"w{number}" for number in range(LONGEST)]
    assert ConstantScorer([[" ".join(words)], ["x"]]).score(" ".join(words)).rouge_l == pytest.approx(0.5)


def pair(name: str, changed: bool | None, *captions: str) -> Pair:
    return Pair(id=name, split="train", before="a", after="b", captions=captions, changed=changed)


TRAINING = [
    pair("0", True, "A road is built.", "a road is built", "a road is built near the trees"),
    pair("1", True, "a road is built", "houses appear"),
    pair("2", True, "an airport vanishes", "an airport vanishes"),
    pair("3", False, "nothing has changed", "no change has occurred here"),
    pair("4", False, "nothing has changed", "no change has occurred here"),
    pair("5", False, "nothing has changed", "no change has occurred here"),
    pair("6", None),
]


def chosen(training: list[Pair], candidates: int = 100) -> dict[str, str | None]:
    tokens = {text: plain_tokens(text) for item in training for text in item.captions}
    return dict(best_constants(training, tokens, candidates))


def test_the_best_sentence_of_each_subset_is_found() -> None:
    assert chosen(TRAINING)["changed"] == "a road is built"
    assert list(chosen(TRAINING)) == ["changed", "unchanged", "all"]


def test_equally_good_ones_are_told_apart_by_all_pairs_then_frequency_then_alphabet() -> None:
    # Both no-change sentences describe their pairs fully; on all pairs the longer one earns more.
    assert chosen(TRAINING)["unchanged"] == "no change has occurred here"
    same = [pair("0", False, "b b", "a a"), pair("1", False, "a a", "b b")]
    assert chosen(same) == {"changed": None, "unchanged": "a a", "all": "a a"}


def test_only_the_most_frequent_captions_are_tried() -> None:
    training = [
        pair("0", True, "zebra zebra", "zebra zebra", "zebra zebra"),
        pair("1", True, "a road is built", "a road is built here"),
        pair("2", True, "a road is built now", "a road is built there"),
    ]
    assert chosen(training, candidates=1)["changed"] == "zebra zebra"
    assert str(chosen(training)["changed"]).startswith("a road is built")


def test_captions_without_words_or_endless_ones_are_no_candidates() -> None:
    training = [pair("0", True, "...", "word " * 80, "a road"), pair("1", True, "...")]
    assert chosen(training)["changed"] == "a road"


def test_trivial_rows() -> None:
    constants = {"changed": "a road is built", "unchanged": "no change", "all": "no change"}
    assert constant_captions(TRAINING[2:4], "x") == {"2": "x", "3": "x"}
    assert constant_captions(TRAINING, None) is None
    assert true_flag_captions(TRAINING[2:4], constants) == {"2": "a road is built", "3": "no change"}
    assert true_flag_captions(TRAINING, constants) is None, "a pair without a flag"
    constants = {**constants, "unchanged": None}
    assert true_flag_captions(TRAINING[:2], constants) is not None
    assert true_flag_captions(TRAINING[:4], constants) is None


@pytest.mark.parametrize("training", [[], [pair("0", True)], [pair("0", True, "...")]])
def test_without_training_captions_there_is_no_constant(training: list[Pair]) -> None:
    assert chosen(training) == {"changed": None, "unchanged": None, "all": None}
