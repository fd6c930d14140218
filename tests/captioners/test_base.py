from __future__ import annotations

import math

import pytest
import torch

from pipeline.captioners.base import Captioner, build_captioner, caption_loss
from pipeline.captioners.generation import generate
from pipeline.captioners.sage_cc import SageCC
from pipeline.captioners.settings import GenerationSettings
from pipeline.config import iterate_settings, parse_section
from pipeline.datasets.vocabulary import END, PAD, START, UNK
from pipeline.errors import SettingsError
from pipeline.training.model import PairCaptioner
from pipeline.training.settings import TrainSettings
from tests.captioners import toy
from tests.captioners.fused import SHAPES, fused_settings
from tests.captioners.mock import check_same
from tests.captioners.plain_search import plain_generate
from tests.captioners.small import SCENE, VOCABULARY, captions


def plain_loss(logits, targets, smoothing):
    """Equation (23) with the paper's label smoothing, as a loop over words."""
    total, count = 0.0, 0
    size = logits.shape[-1]
    for caption, words in zip(logits.tolist(), targets.tolist(), strict=True):
        for scores, word in zip(caption, words, strict=True):
            if word == 0:
                continue
            normaliser = math.log(sum(math.exp(score) for score in scores))
            for other, score in enumerate(scores):
                share = 1 - smoothing if other == word else smoothing / (size - 1)
                total -= share * (score - normaliser)
            count += 1
    return total / count


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_loss_is_equation_23(smoothing):
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0)) * 2
    targets = torch.tensor([[4, 5, 6, 3], [5, 3, 0, 0], [3, 0, 0, 0]])
    assert caption_loss(logits, targets, smoothing).item() == pytest.approx(
        plain_loss(logits, targets, smoothing), rel=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_padding_has_neither_loss_nor_gradient(smoothing):
    logits = torch.randn(2, 3, 7, requires_grad=True)
    targets = torch.tensor([[4, 3, 0], [3, 0, 0]])
    caption_loss(logits, targets, smoothing).backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum(-1) > 0).equal(targets > 0)


def test_loss_is_float32_for_half_precision_logits():
    loss = caption_loss(torch.randn(2, 3, 7).bfloat16(), torch.full((2, 3), 4))
    assert loss.dtype == torch.float32


def test_settings_name_the_captioner_that_they_build():
    model = build_captioner(fused_settings("paper"), VOCABULARY, SHAPES)
    assert isinstance(model, SageCC) and isinstance(model, Captioner)
    assert model.shapes == SHAPES and model.vocabulary_size == VOCABULARY


CLASSES = 4


@pytest.fixture(autouse=True)
def _registered():
    with toy.registered():
        yield


@pytest.fixture
def toy_model() -> toy.ToyCaptioner:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shapes = {"scenes": SCENE, "maps": (CLASSES, 5, 4)}
        model = build_captioner(toy.ToySettings(width=8), VOCABULARY, shapes)
    assert isinstance(model, toy.ToyCaptioner)
    return model.eval()


@pytest.fixture
def inputs(scenes: torch.Tensor) -> dict[str, torch.Tensor]:
    maps = torch.randint(CLASSES, (3, 2, 5, 4), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    return {"scenes": scenes.half(), "maps": maps}


def test_a_registered_captioner_is_named_by_kind():
    settings = TrainSettings.model_validate({"captioner": {"kind": "toy"}})
    assert settings.captioner == toy.ToySettings()
    assert settings.input_names() == ("scenes", "maps")
    chosen = parse_section({"captioner": {"kind": "toy", "width": 4}}, "train", TrainSettings)
    assert chosen.captioner == toy.ToySettings(width=4)
    assert chosen.model_dump(mode="json")["captioner"] == {"kind": "toy", "width": 4}
    assert TrainSettings.model_validate(chosen.model_dump(mode="json")) == chosen
    assert {"train.captioner.kind", "train.captioner.width"} <= {s.key for s in iterate_settings("train", chosen)}
    assert TrainSettings().captioner.kind == "sage-cc"


def test_an_unknown_key_of_a_registered_captioner_is_refused_with_the_nearest_name():
    for values in ({"kind": "toy", "widht": 4}, {"kind": "toy", "scene": {}}):
        with pytest.raises(SettingsError, match=r"unknown key `train\.captioner\.(widht|scene)`") as caught:
            TrainSettings.model_validate({"captioner": values})
        assert "width" in caught.value.fix
    with pytest.raises(SettingsError, match=r"`train\.captioner\.width`"):
        TrainSettings.model_validate({"captioner": {"kind": "toy", "width": 0}})


def test_an_unknown_kind_is_refused_with_the_nearest_name():
    with pytest.raises(SettingsError, match="unknown captioner, did you mean toy") as caught:
        TrainSettings.model_validate({"captioner": {"kind": "toi"}})
    assert caught.value.where == "train.captioner.kind"


def test_forward_and_loss_of_another_captioner(toy_model, inputs):
    model, tokens, owners = PairCaptioner(toy_model), captions(4, 6), torch.tensor([0, 0, 1, 2])
    memory = model.encode(inputs)
    assert len(memory) == 3
    logits = toy_model.decode(memory, tokens[:, :-1], owners)
    assert logits.shape == (4, 5, VOCABULARY)
    loss = model(inputs, tokens, owners)
    assert torch.equal(loss, caption_loss(logits, tokens[:, 1:]))
    loss.backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("name", ["scenes", "maps"])
@pytest.mark.parametrize("date", [0, 1])
def test_both_dates_of_each_input_reach_the_captions(toy_model, inputs, name, date):
    tokens, rows = captions(3, 6), torch.arange(3)
    before = toy_model.decode(toy_model.encode(inputs), tokens, rows)
    changed = {**inputs, name: inputs[name].clone()}
    changed[name][1, date] = 1
    after = toy_model.decode(toy_model.encode(changed), tokens, rows)
    assert ((after - before).abs().amax((1, 2)) > 1e-6).tolist() == [False, True, False]


@torch.no_grad()
def test_greedy_captions_of_another_captioner(toy_model, inputs):
    """Word by word the likeliest one, through the whole prefix each time."""
    memory = toy_model.encode(inputs)
    hypotheses = generate(toy_model, memory, GenerationSettings(beams=1, max_length=9))
    for row, (best,) in enumerate(hypotheses):
        words: list[int] = []
        total = 0.0
        while END not in words:
            logits = toy_model.decode(memory, torch.tensor([[START, *words]]), torch.tensor([row]))[0, -1]
            scores = torch.log_softmax(logits, -1)
            forbidden = {PAD, START, UNK}
            allowed = [END] if len(words) == 7 else [word for word in range(VOCABULARY) if word not in forbidden]
            words.append(max(allowed, key=lambda word, scores=scores: float(scores[word])))
            total += float(scores[words[-1]])
        assert list(best.tokens) == words
        assert best.log_probability == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("beams", [2, 3])
def test_beam_search_of_another_captioner_equals_the_plain_search(toy_model, inputs, beams):
    with torch.no_grad():
        toy_model.logits.bias[END] += 0.5
        memory = toy_model.encode(inputs)
    settings = GenerationSettings(beams=beams, max_length=9, n_best=2, length_penalty=0.7)
    for row, hypotheses in enumerate(generate(toy_model, memory, settings)):
        check_same(hypotheses, plain_generate(toy_model, memory, row, settings))


def test_a_captioner_without_attention_maps_says_so(toy_model, inputs):
    with pytest.raises(SettingsError, match="captioner toy gives no attention maps") as caught:
        toy_model.cross_attention(toy_model.encode(inputs), captions(3, 6), torch.arange(3))
    assert "--explain" in caught.value.fix
    assert toy_model.attended_regions(inputs) == {}
    with pytest.raises(ValueError, match="no pretrained weights of graph"):
        toy_model.load_pretrained("graph", {})


def test_two_captioners_under_one_name_are_refused():
    with pytest.raises(SettingsError, match="two definitions of the captioner 'toy'"), toy.registered():
        pass
    assert TrainSettings.model_validate({"captioner": {"kind": "toy"}}).captioner == toy.ToySettings()
