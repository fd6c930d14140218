"""The whole captioner with either fusion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.decoding import Recomputing
from pipeline.captioners.base import caption_loss
from pipeline.captioners.generation import generate
from pipeline.captioners.sage_cc import SageCC
from pipeline.captioners.settings import GenerationSettings
from pipeline.datasets.vocabulary import END
from pipeline.runtime import deterministic
from tests.captioners.fused import (
    SHAPES,
    fused_settings,
    make_fused,
    make_side_inputs,
    on_device,
    padded_further,
    select,
    shuffled,
)
from tests.captioners.mock import check_same
from tests.captioners.plain_search import plain_generate
from tests.captioners.small import SCENE, VOCABULARY, captions, make_model, settings


def test_a_pair_alone_and_in_any_batch(model, scenes):
    tokens = captions(3, 6)
    together = model.decode(model.encode({"scenes": scenes}), tokens, torch.arange(3))
    turned = model.decode(model.encode({"scenes": scenes.flip(0)}), tokens, torch.tensor([2, 1, 0]))
    torch.testing.assert_close(turned, together, atol=1e-5, rtol=0)
    for pair in range(3):
        alone = model.decode(
            model.encode({"scenes": scenes[pair : pair + 1]}), tokens[pair : pair + 1], torch.tensor([0])
        )
        torch.testing.assert_close(alone[0], together[pair], atol=1e-5, rtol=0)


def test_captions_of_one_pair_share_its_memory(model, scenes):
    tokens, rows = captions(5, 6), torch.tensor([0, 0, 1, 1, 1])
    shared = model.decode(model.encode({"scenes": scenes}), tokens, rows)
    repeated = model.decode(model.encode({"scenes": scenes[rows]}), tokens, torch.arange(5))
    torch.testing.assert_close(shared, repeated, atol=1e-5, rtol=0)
    selected = model.decode(model.encode({"scenes": scenes}).select(rows), tokens, torch.arange(5))
    torch.testing.assert_close(shared, selected, atol=1e-5, rtol=0)


def test_dates_are_not_exchangeable(model, scenes):
    tokens, rows = captions(3, 6), torch.arange(3)
    forward = model.decode(model.encode({"scenes": scenes}), tokens, rows)
    backward = model.decode(model.encode({"scenes": scenes.flip(1)}), tokens, rows)
    assert (forward - backward).abs().max() > 1e-3


def test_the_seed_decides_the_weights():
    first, second, other = (make_model(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_every_weight_learns(scenes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SageCC(settings({"feedforward": 2}), 11, {"scenes": SCENE})
        loss = caption_loss(
            model.decode(model.encode({"scenes": scenes}), captions(3, 6), torch.arange(3)), captions(3, 6)
        )
    loss.backward()
    silent = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert not silent


def test_autocast_agrees_with_full_precision(scenes):
    model = make_model(decoder={"width": 32}, scene={"width": 32})
    tokens, rows = captions(3, 6), torch.arange(3)
    full = model.decode(model.encode({"scenes": scenes}), tokens, rows)
    with torch.autocast("cpu", torch.bfloat16):
        memory = model.encode({"scenes": scenes})
        logits = model.decode(memory, tokens, rows)
        hypotheses = generate(model, memory, GenerationSettings(beams=2, max_length=8))
    assert memory.change.dtype == torch.float32
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - full).abs().max() < 0.05 * full.abs().max()
    assert all(len(pair) == 1 and pair[0].tokens[-1] == 3 for pair in hypotheses)


def test_it_learns_to_tell_pairs_apart(scenes):
    sentences = [[4, 5, 6, 7], [8, 9], [10, 4, 4, 9, 5]]
    tokens = torch.tensor([[2, *words, 3] + [0] * (5 - len(words)) for words in sentences])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SageCC(settings({"width": 16}, {"width": 16, "dropout": 0.0}), 11, {"scenes": SCENE})
        optimiser = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(60):
            loss = caption_loss(
                model.decode(model.encode({"scenes": scenes}), tokens[:, :-1], torch.arange(3)), tokens[:, 1:]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval()
    with torch.no_grad():
        memory = model.encode({"scenes": scenes})
    hypotheses = generate(model, memory, GenerationSettings(beams=3, max_length=10))
    assert [list(pair[0].tokens[:-1]) for pair in hypotheses] == sentences


CHOICES = [
    ("paper", {}),
    ("paper", {"paper": {"pooling": "attention", "condition": "projected", "empty": "zero", "region_feedforward": 2}}),
    ("paper", {"paper": {"dates_apart": True}, "inputs": {"top_q": 2}, "graph_encoder": {"readout": "attention"}}),
    ("release", {}),
    ("release", {"decoder": {"spatial_bias": False}, "inputs": {"top_q": 2}}),
    ("release", {"decoder": {"norm": "post", "bias_scope": "layer"}, "inputs": {"graph": False}}),
]
each = pytest.mark.parametrize(("fusion", "changes"), CHOICES, ids=str)


def changed(side_inputs: dict[str, Any], change) -> dict[str, Any]:
    regions = {name: change(side_inputs[name]) for name in ("regions", "semantics")}
    return {**side_inputs, **regions}


@each
def test_a_pair_with_side_inputs_alone_and_in_any_batch(scenes, fusion, changes):
    model, side_inputs, tokens = make_fused(fusion, **changes), make_side_inputs(), captions(3, 6)
    together = model.decode(model.encode({"scenes": scenes, **side_inputs}), tokens, torch.arange(3))
    order = torch.tensor([2, 0, 2, 1])
    memory = model.encode({"scenes": scenes[order], **select(side_inputs, order)})
    torch.testing.assert_close(model.decode(memory, tokens[order], torch.arange(4)), together[order], atol=1e-5, rtol=0)
    for pair in range(3):
        row = torch.tensor([pair])
        memory = model.encode({"scenes": scenes[row], **select(side_inputs, row)})
        alone = model.decode(memory, tokens[row], torch.tensor([0]))
        torch.testing.assert_close(alone[0], together[pair], atol=1e-5, rtol=0)


@each
def test_padding_changes_nothing(scenes, fusion, changes):
    model, side_inputs, tokens, rows = (
        make_fused(fusion, **changes),
        make_side_inputs(),
        captions(3, 6),
        torch.arange(3),
    )
    expected = model.decode(model.encode({"scenes": scenes, **side_inputs}), tokens, rows)
    for more in (1, 7):
        padded = changed(side_inputs, lambda regions, more=more: padded_further(regions, more))
        torch.testing.assert_close(
            model.decode(model.encode({"scenes": scenes, **padded}), tokens, rows), expected, atol=1e-5, rtol=0
        )


@each
def test_more_regions_than_in_training_are_taken(scenes, fusion, changes):
    few, many = make_side_inputs((1, 0, 2), (1, 1, 0)), make_side_inputs((60, 3, 45), (70, 1, 90), seed=3)
    model, tokens, rows = make_fused(fusion, **changes).train(), captions(3, 6), torch.arange(3)
    caption_loss(model.decode(model.encode({"scenes": scenes, **few}), tokens, rows), tokens).backward()
    model.eval()
    memory = model.encode({"scenes": scenes, **many})
    assert model.decode(memory, tokens, rows).isfinite().all()
    assert len(generate(model, memory, GenerationSettings(beams=2, max_length=6))) == 3


@each
def test_the_order_of_regions_changes_nothing(scenes, fusion, changes):
    model, side_inputs, tokens, rows = (
        make_fused(fusion, **changes),
        make_side_inputs(),
        captions(3, 6),
        torch.arange(3),
    )
    expected = model.decode(model.encode({"scenes": scenes, **side_inputs}), tokens, rows)
    turned = changed(side_inputs, shuffled)
    torch.testing.assert_close(
        model.decode(model.encode({"scenes": scenes, **turned}), tokens, rows), expected, atol=1e-5, rtol=0
    )


@each
def test_pairs_without_any_region(scenes, fusion, changes):
    """No column, rows wholly masked, or a neighbour with regions: one and the same to a pair that has none."""
    model, tokens, rows = make_fused(fusion, **changes), captions(3, 6), torch.arange(3)
    nothing = make_side_inputs((0, 0, 0), (0, 0, 0))
    assert nothing["regions"].features.shape[1] == 0
    expected = model.decode(model.encode({"scenes": scenes, **nothing}), tokens, rows)
    assert expected.isfinite().all()
    masked = changed(nothing, lambda regions: padded_further(regions, 3))
    torch.testing.assert_close(
        model.decode(model.encode({"scenes": scenes, **masked}), tokens, rows), expected, atol=1e-5, rtol=0
    )
    mixed = model.decode(model.encode({"scenes": scenes, **make_side_inputs((3, 0, 0), (1, 0, 0))}), tokens, rows)
    torch.testing.assert_close(mixed[1:], expected[1:], atol=1e-5, rtol=0)
    assert (mixed[0] - expected[0]).abs().max() > 1e-4


@each
@pytest.mark.parametrize("name", ["regions", "semantics", "graph"])
def test_every_input_counts_unless_it_is_off(scenes, fusion, changes, name):
    if not changes.get("inputs", {}).get(name, True):
        return
    tokens, rows, side_inputs = captions(3, 6), torch.arange(3), make_side_inputs((2, 1, 4), (3, 1, 2))
    other = {**side_inputs, name: replace(side_inputs[name], features=side_inputs[name].features + 1)}
    off = {**changes, "inputs": {**changes.get("inputs", {}), name: False}}
    for chosen, counts in ((changes, True), (off, False)):
        model = make_fused(fusion, **chosen)
        first, second = (
            model.decode(model.encode({"scenes": scenes, **given}), tokens, rows) for given in (side_inputs, other)
        )
        moved = (first - second).abs().amax((1, 2))
        assert (moved > 1e-5).all() if counts else torch.equal(first, second)


@each
def test_every_weight_learns_with_a_fusion(scenes, fusion, changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SageCC(fused_settings(fusion, **changes), VOCABULARY, SHAPES)
        if fusion == "paper":
            with torch.no_grad():  # where all queries and empty vectors are zero, some gradients vanish
                for name, weight in model.named_parameters():
                    if name.endswith("pooling.query"):
                        weight.normal_()
        memory = model.encode({"scenes": scenes, **make_side_inputs()})
        caption_loss(model.decode(memory, captions(3, 6), torch.arange(3)), captions(3, 6)).backward()
    silent = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert not silent
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("fusion", ["paper", "release"])
@pytest.mark.parametrize("graph", [True, False])
def test_training_without_any_region_gives_numbers(scenes, fusion, graph):
    """And a gradient for every weight, if only zero, which training on several devices asks for."""
    model = make_fused(fusion, inputs={"graph": graph}).train()
    memory = model.encode({"scenes": scenes, **make_side_inputs((0, 0, 0), (0, 0, 0))})
    caption_loss(model.decode(memory, captions(3, 6), torch.arange(3)), captions(3, 6)).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("fusion", ["none", "paper", "release"])
def test_scene_encoder_and_decoder_start_the_same_with_every_fusion(fusion):
    def weights(kind):
        torch.manual_seed(3)
        return SageCC(fused_settings(kind), VOCABULARY, SHAPES).state_dict()

    with torch.random.fork_rng():
        bare, fused = weights("none"), weights(fusion)
    assert all(torch.equal(fused[name], value) for name, value in bare.items())
    assert all(name.startswith("fusion.") for name in fused.keys() - bare.keys())


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_nothing_changed_where_both_images_are_the_same(scenes, fusion):
    same_twice = scenes[:, :1].expand(-1, 2, -1, -1, -1)
    memory = make_fused(fusion).encode({"scenes": same_twice, **make_side_inputs()})
    assert torch.equal(memory.change, torch.zeros(3, 2, 3))
    assert torch.equal(memory.consistency, torch.ones(3, 2, 3))


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_zero_weights_are_no_bias(scenes, fusion):
    biased, free = make_fused(fusion), make_fused(fusion, decoder={"spatial_bias": False})
    free.load_state_dict({name: value for name, value in biased.state_dict().items() if name in free.state_dict()})
    tokens, rows = captions(3, 5), torch.arange(3)
    memory = biased.encode({"scenes": scenes, **make_side_inputs()})
    without = free.decode(memory, tokens, rows)
    assert (biased.decode(memory, tokens, rows) - without).abs().max() > 1e-4
    with torch.no_grad():
        biased.decoder.alpha.zero_()
        biased.decoder.beta.zero_()
    torch.testing.assert_close(biased.decode(memory, tokens, rows), without, atol=1e-6, rtol=0)


def test_the_bias_falls_on_the_grid_alone(scenes):
    """Equation (18) where the memory holds more than the grid: nothing is added elsewhere, and padding is shut."""
    model = make_fused("release")
    memory = model.encode({"scenes": scenes, **make_side_inputs()})
    with torch.no_grad():
        model.decoder.alpha.fill_(0.7)
        model.decoder.beta.fill_(-0.3)
        bias = model.start(memory, 1, 2).cross[0].bias
    assert bias.shape == (3, 1, 1, 24)
    for pair in range(3):
        M, C = memory.change[pair].flatten(), memory.consistency[pair].flatten()
        for token in range(24):
            if token < 6:
                expected = 0.7 * M[token].item() - 0.3 * C[token].item()
            else:
                expected = 0.0 if memory.mask[pair, token] else -torch.inf
            assert bias[pair, 0, 0, token].item() == pytest.approx(expected, abs=1e-6)


@each
@pytest.mark.parametrize("beams", [1, 3])
def test_cached_search_equals_recomputing_searches(fusion, changes, beams):
    model = make_fused(fusion, vocabulary=30, **changes)
    scenes = torch.randn(5, 2, *SCENE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        model.decoder.logits.bias[END] += 1.0
        memory = model.encode({"scenes": scenes, **make_side_inputs((2, 0, 4, 1, 0), (3, 1, 0, 2, 0))})
    settings = GenerationSettings(beams=beams, max_length=12, n_best=min(beams, 2), length_penalty=0.7)
    cached = generate(model, memory, settings)
    recomputed = generate(Recomputing(model), memory, settings)
    for row in range(5):
        check_same(cached[row], recomputed[row])
        check_same(cached[row], plain_generate(model, memory, row, settings))


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_autocast_agrees_with_full_precision_with_a_fusion(scenes, fusion):
    model, side_inputs = make_fused(fusion), make_side_inputs()
    tokens, rows = captions(3, 6), torch.arange(3)
    full = model.decode(model.encode({"scenes": scenes, **side_inputs}), tokens, rows)
    with torch.autocast("cpu", torch.bfloat16):
        memory = model.encode({"scenes": scenes, **side_inputs})
        logits = model.decode(memory, tokens, rows)
        hypotheses = generate(model, memory, GenerationSettings(beams=2, max_length=8))
    assert (logits.float() - full).abs().max() < 0.1 * full.abs().max()
    assert all(len(pair) == 1 for pair in hypotheses)


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_no_attention_falls_on_padding(scenes, fusion):
    model = make_fused(fusion)
    memory = model.encode({"scenes": scenes, **make_side_inputs()})
    tokens = captions(3, 5)
    with torch.no_grad():
        attention = model.cross_attention(memory, tokens, torch.arange(3))
    assert attention.shape == (3, 5, 2, 2, memory.tokens.shape[1])
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 5, 2, 2))
    if memory.mask is not None:
        assert not attention.masked_fill(memory.mask[:, None, None, None], 0.0).any()


@each
def test_the_same_step_gives_the_same_bits(scenes, fusion, changes):
    def step():
        torch.manual_seed(4)
        model = SageCC(fused_settings(fusion, **changes), VOCABULARY, SHAPES)
        memory = model.encode({"scenes": scenes, **make_side_inputs()})
        caption_loss(model.decode(memory, captions(3, 6), torch.arange(3)), captions(3, 6)).backward()
        return [weight.grad for weight in model.parameters()]

    with deterministic(torch.device("cpu")):
        assert all(torch.equal(first, second) for first, second in zip(step(), step(), strict=True))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@each
def test_a_gpu_finds_the_same_captions(scenes, fusion, changes):
    model, side_inputs, device = make_fused(fusion, **changes), make_side_inputs(), torch.device("cuda")
    settings = GenerationSettings(beams=3, max_length=12, n_best=3)
    with torch.no_grad():
        expected = generate(model, model.encode({"scenes": scenes, **side_inputs}), settings)
        moved = model.to(device)
        moved_inputs = on_device({"scenes": scenes, **side_inputs}, device)
        hypotheses = generate(moved, moved.encode(moved_inputs), settings)
    for ours, theirs in zip(hypotheses, expected, strict=True):
        check_same(ours, theirs, tolerance=1e-3)


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_regions_are_dropped_in_training_only(scenes, fusion):
    model, plain = (make_fused(fusion, inputs={"drop": drop}) for drop in (0.5, 0.0))
    inputs = {"scenes": scenes, **make_side_inputs()}
    assert torch.equal(model.encode(inputs).tokens, plain.encode(inputs).tokens)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()

    def encoded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        memory = model.encode(inputs)
        return memory.tokens if memory.condition is None else memory.condition

    assert torch.equal(encoded(1), encoded(1))
    assert not torch.equal(encoded(1), encoded(2))
