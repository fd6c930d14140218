from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.captioners.base import caption_loss
from pipeline.training.model import ImageFront, build_model
from pipeline.vision.scenes.backbones import build_backbone, normalise
from pipeline.vision.scenes.settings import BackboneSettings
from tests.worlds import world

VOCABULARY = 9
SHAPES = {"scenes": world.SHAPE}


def batch() -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn((2, 2, *world.SHAPE), generator=generator)
    tokens = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0], [2, 4, 4, 3]])
    return {"scenes": scenes}, tokens, torch.tensor([0, 1, 1])


def test_the_seed_decides_the_weights_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (build_model(world.TINY, VOCABULARY, SHAPES, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_forward_is_the_loss_of_the_decoded_words():
    model = build_model(world.TINY, VOCABULARY, SHAPES, seed=1, smoothing=0.2).eval()
    inputs, tokens, owners = batch()
    memory = model.captioner.encode(inputs)
    logits = model.captioner.decode(memory, tokens[:, :-1], owners)
    assert torch.equal(model(inputs, tokens, owners), caption_loss(logits, tokens[:, 1:]))
    assert torch.equal(model.loss(model.encode(inputs), tokens, owners), model(inputs, tokens, owners))


def test_log_probabilities_are_the_loss_by_caption():
    model = build_model(world.TINY, VOCABULARY, SHAPES, seed=1).eval()
    inputs, tokens, owners = batch()
    with torch.no_grad():
        memory = model.encode(inputs)
        total = -model.log_probability(memory, tokens, owners).sum()
        mean = model.loss(memory, tokens, owners)
    assert total.item() == pytest.approx(mean.item() * 8, rel=1e-5)


def test_bf16_computes_in_bf16_and_keeps_weights():
    model = build_model(world.TINY, VOCABULARY, SHAPES, seed=1, bf16=True).eval()
    inputs, tokens, owners = batch()
    assert model.encode(inputs).tokens.dtype == torch.bfloat16
    assert model(inputs, tokens, owners).dtype == torch.float32
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.device == torch.device("cpu")


@pytest.fixture
def front() -> ImageFront:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ImageFront(BackboneSettings(), None, "trained")


def pictures(count: int = 2) -> torch.Tensor:
    return torch.randint(256, (count, 2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_the_front_makes_features_of_both_dates(front):
    front.eval()
    images = pictures()
    with torch.no_grad():
        features = front(images)
        for date in (0, 1):
            alone = front.backbone(normalise(images[:, date], BackboneSettings()))
            torch.testing.assert_close(features[:, date], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("batch_norm", ["frozen", "trained", "all"])
def test_batch_norm_statistics_follow_where_they_should(batch_norm):
    front = ImageFront(BackboneSettings(), None, batch_norm).train()
    frozen = {part for module in front.backbone.frozen_modules() for part in module.modules()}
    norms = [module for module in front.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and any(module in frozen for module in norms) and any(module not in frozen for module in norms)
    for module in norms:
        assert module.training == (batch_norm == "all" or (batch_norm == "trained" and module not in frozen))
    assert not any(module.training for module in front.eval().modules())


def test_early_modules_are_frozen_and_the_rest_learns(front):
    frozen = {id(weight) for module in front.backbone.frozen_modules() for weight in module.parameters()}
    front.train()(pictures()).square().mean().backward()
    for name, weight in front.named_parameters():
        assert weight.requires_grad == (id(weight) not in frozen), name
        assert (weight.grad is not None) == weight.requires_grad, name


def test_images_become_scenes_before_the_captioner_sees_them(front):
    images = pictures()
    with torch.no_grad():
        features = front.eval()(images)
        shapes = {"scenes": tuple(features.shape[2:])}
        model = build_model(world.TINY, VOCABULARY, shapes, seed=1, front=front).eval()
        memory = model.encode({"images": images})
        expected = model.captioner.encode({"scenes": features})
    torch.testing.assert_close(memory.tokens, expected.tokens)
    assert {name.split(".")[0] for name in model.state_dict()} == {"captioner", "front"}


def test_the_front_starts_with_the_weights_it_is_given():
    settings = BackboneSettings()
    expected = build_backbone(settings.backbone, Path(settings.weights)).state_dict()
    weights = ImageFront(settings, Path(settings.weights), "frozen").backbone.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
