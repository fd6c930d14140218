from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pipeline.captioners.generation import Hypothesis, generate
from pipeline.captioners.settings import GenerationSettings
from pipeline.errors import SettingsError
from pipeline.language.settings import VocabularySettings
from pipeline.language.vocabulary import END, START, build_vocabulary
from pipeline.training.change_decision import agreeing, no_change_mass, no_change_tokens
from pipeline.training.checkpoints import ModelCard, Trained
from pipeline.training.describing import describe
from pipeline.training.model import PairCaptioner, build_model
from tests.training import world


@torch.no_grad()
def test_the_mass_is_the_sum_of_the_sentences_probabilities() -> None:
    model = build_model(world.TINY, 9, world.SHAPE, seed=3).eval()
    memory = model.encode(torch.randn(2, 2, *world.SHAPE))
    sentences = [[START, 5, END], [START, 6, 4, 7, END]]
    expected = []
    for row in range(2):
        total = 0.0
        for sentence in sentences:
            log = 0.0
            for place in range(1, len(sentence)):
                given = torch.tensor([sentence[:place]])
                logits = model.captioner.decode(memory, given, torch.tensor([row]))[0, -1]
                log += float(torch.log_softmax(logits, -1)[sentence[place]])
            total += math.exp(log)
        expected.append(total)
    torch.testing.assert_close(no_change_mass(model, memory, sentences), torch.tensor(expected), rtol=1e-4, atol=0)


@torch.no_grad()
def test_the_search_knows_the_same_probabilities() -> None:
    model = build_model(world.TINY, 9, world.SHAPE, seed=3).eval()
    memory = model.encode(torch.randn(1, 2, *world.SHAPE))
    best = generate(model.captioner, memory, GenerationSettings(beams=3, max_length=6))[0][0]
    tokens = torch.tensor([[START, *best.tokens, 0]])
    found = model.log_probability(memory, tokens, torch.tensor([0]))
    assert float(found[0]) == pytest.approx(best.log_probability, abs=1e-4)


@torch.no_grad()
def test_what_label_smoothing_taught_is_undone() -> None:
    model = build_model(world.TINY, 9, world.SHAPE, seed=3).eval()
    memory = model.encode(torch.randn(1, 2, *world.SHAPE))
    logits = model.captioner.decode(memory, torch.tensor([[START, 5]]), torch.tensor([0]))[0]
    q = torch.softmax(logits, -1)[[0, 1], [5, END]]
    # What training with ε = 0.05 makes of p is taken back to p.
    p = (q - 0.05 / 8) / (0.95 - 0.05 / 8)
    torch.testing.assert_close(0.95 * p + 0.05 * (1 - p) / 8, q)
    found = no_change_mass(model, memory, [[START, 5, END]], 0.05)
    torch.testing.assert_close(found[0], p.clamp(0, 1).prod(), rtol=1e-4, atol=0)


def test_sentences_of_unknown_words_cannot_be_said() -> None:
    texts = ["there is no difference", "a house is built"]
    vocabulary = build_vocabulary(texts, VocabularySettings(min_count=1), "levir-cc")
    found = no_change_tokens("levir-cc", vocabulary)
    assert [vocabulary.decode(tokens[1:]) for tokens in found] == ["there is no difference"]
    for dataset in ("folder", "dubai-cc"):
        own = build_vocabulary(texts[1:], VocabularySettings(min_count=1), dataset)
        with pytest.raises(SettingsError, match=r"no-change sentences of the data set \w+") as caught:
            no_change_tokens(dataset, own)
        assert "caption.change: sentence" in str(caught.value.fix)


def test_sentences_that_agree_come_first_in_their_order() -> None:
    texts = ["there is no difference", "a house is built", "no change has occurred", "a road appears"]
    assert agreeing(texts, [0, 1, 2, 3], True) == [1, 3, 0, 2]
    assert agreeing(texts, [0, 1, 2, 3], False) == [0, 2, 1, 3]
    assert agreeing(texts[:1], [0], True) == [0]


def test_the_threshold_decides_which_sentences_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = ["there is no difference", "a house is built"]
    vocabulary = build_vocabulary(texts, VocabularySettings(min_count=1), "levir-cc")
    model = build_model(world.TINY, vocabulary.size, world.SHAPE, seed=3).eval()
    unused = {"seed": 3, "key": "", "pairs_sha256": "", "vocabulary_sha256": "", "weights_sha256": ""}
    card = ModelCard(dataset="levir-cc", train={"label_smoothing": 0.0}, **unused)
    said = [Hypothesis(tuple(vocabulary.encode(text)[1:]), -1.0, -1.0) for text in texts]
    monkeypatch.setattr(PairCaptioner, "generate", lambda self, memory, settings: [said] * len(memory))
    inputs = torch.randn(1, 2, *world.SHAPE)
    [mass] = no_change_mass(model, model.encode(inputs), no_change_tokens("levir-cc", vocabulary)).tolist()

    def first(threshold: float | None) -> str:
        trained = Trained(model, vocabulary, card, tmp_path)
        [[sentences]] = describe(trained, [(inputs, None)], GenerationSettings(), mass=threshold)
        return sentences[0].text

    assert first(None) == texts[0]
    assert first(mass * 1.01) == texts[1]
    assert first(mass * 0.99) == texts[0]
