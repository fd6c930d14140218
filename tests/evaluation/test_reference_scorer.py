from __future__ import annotations

import json
import random

import pytest

from pipeline.errors import DataError
from pipeline.evaluation import reference_scorer
from pipeline.evaluation.reference_scorer import ReferenceScorer
from pipeline.evaluation.scores import score
from tests.evaluation.conftest import reference_data

WORDS = "a road house houses tree trees is are built removed beside near the same as before".split()  # noqa: SIM905


def sentence(rng: random.Random, longest: int = 14) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(longest)))


def whole(candidates: list[str], references: list[list[str]]) -> tuple[float, float]:
    """BLEU-4 and CIDEr-D of the scorer of all metrics."""
    scores = score(dict(enumerate(candidates)), dict(enumerate(references)), java=None, meteor=False, tokenized=True)
    return scores.bleu_4, scores.cider_d


@pytest.mark.parametrize("seed", range(12))
def test_the_scores_are_those_of_all_metrics_to_the_last_bit(seed: int) -> None:
    rng = random.Random(seed)
    references = [[sentence(rng) for _ in range(rng.randrange(1, 6))] for _ in range(rng.choice((1, 2, 30)))]
    references[0][0] = "a road is built"
    scorer = ReferenceScorer(references)
    for _ in range(3):
        candidates = [
            rng.choice((rng.choice(texts), sentence(rng), "", "no word of these is known here")) for texts in references
        ]
        assert scorer.score(candidates) == whole(candidates, references)
        # What was kept of the first call changes nothing.
        assert scorer.score(candidates) == whole(candidates, references)


def test_references_and_repeated_captions_are_weighed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed: list[str] = []
    precook = reference_scorer.precook
    monkeypatch.setattr(reference_scorer, "precook", lambda text, n: weighed.append(text) or precook(text, n))
    references = [["a road", "a house"], ["the same as before"]]
    scorer = ReferenceScorer(references)
    weighed.clear()
    scorer.score(["a road is built", "the same"])
    assert sorted(weighed) == ["a road is built", "the same"]
    scorer.score(["a house", "the same"])
    assert sorted(weighed) == ["a house", "a road is built", "the same"]
    # A caption belongs to its pair: another pair's references are others.
    assert scorer.score(["the same", "a house"]) == whole(["the same", "a house"], references)


@pytest.mark.parametrize(
    ("references", "message"),
    [([], "no captions"), ([["a road"], []], "no reference"), ([[""], ["", ""]], "no words")],
)
def test_references_that_nothing_can_be_scored_against(references: list[list[str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ReferenceScorer(references)


def test_a_candidate_for_each_pair() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ReferenceScorer([["a road"], ["a house"]]).score(["a road"])


@pytest.mark.reference_data
def test_the_scores_of_real_captions_are_those_of_all_metrics() -> None:
    path = reference_data() / "levir_cc" / "LevirCCcaptions.json"
    images = json.loads(path.read_text(encoding="utf-8"))["images"]
    references = [
        [" ".join(sentence["tokens"]) for sentence in image["sentences"]] for image in images if image["split"] == "val"
    ]
    rng = random.Random(0)
    candidates = [rng.choice(rng.choice(references)) for _ in references]
    assert ReferenceScorer(references).score(candidates) == whole(candidates, references)
