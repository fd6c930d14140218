"""The whole captioner with either fusion."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.decoding import Recomputing
from tests.captioners.plain_search import plain_generate
from pipeline.captioners.attention_maps import by_section, explain
from pipeline.captioners.generation import generate
from pipeline.captioners.inputs import Evidence
from pipeline.captioners.sage_cc import SageCC, caption_loss
from pipeline.captioners.settings import GenerationSettings
from pipeline.datasets.vocabulary import END
from pipeline.runtime import deterministic
from tests.captioners.fused import WIDTHS, fused_settings, make_evidence, make_fused, padded_further, shuffled
from tests.captioners.small import SCENE, VOCABULARY, captions, make_model, settings
from tests.captioners.test_generation import same


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


def test_a_pair_alone_and_in_any_batch(model, scenes):
    tokens = captions(3, 6)
    together = model.decode(model.encode(scenes), tokens, torch.arange(3))
    turned = model.decode(model.encode(scenes.flip(0)), tokens, torch.tensor([2, 1, 0]))
    torch.testing.assert_close(turned, together, atol=1e-5, rtol=0)
    for pair in range(3):
        alone = model.decode(model.encode(scenes[pair : pair + 1]), tokens[pair : pair + 1], torch.tensor([0]))
        torch.testing.assert_close(alone[0], together[pair], atol=1e-5, rtol=0)


def test_captions_of_one_pair_share_its_memory(model, scenes):
    tokens, rows = captions(5, 6), torch.tensor([0, 0, 1, 1, 1])
    shared = model.decode(model.encode(scenes), tokens, rows)
    repeated = model.decode(model.encode(scenes[rows]), tokens, torch.arange(5))
    torch.testing.assert_close(shared, repeated, atol=1e-5, rtol=0)
    selected = model.decode(model.encode(scenes).select(rows), tokens, torch.arange(5))
    torch.testing.assert_close(shared, selected, atol=1e-5, rtol=0)


def test_dates_are_not_exchangeable(model, scenes):
    tokens, rows = captions(3, 6), torch.arange(3)
    forward = model.decode(model.encode(scenes), tokens, rows)
    backward = model.decode(model.encode(scenes.flip(1)), tokens, rows)
    assert (forward - backward).abs().max() > 1e-3


def test_the_seed_decides_the_weights():
    first, second, other = (make_model(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_every_weight_learns(scenes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SageCC(settings({"feedforward": 2}), 11, SCENE)
        loss = caption_loss(model.decode(model.encode(scenes), captions(3, 6), torch.arange(3)), captions(3, 6))
    loss.backward()
    silent = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert not silent


def test_autocast_agrees_with_full_precision(scenes):
    model = make_model(decoder={"width": 32}, scene={"width": 32})
    tokens, rows = captions(3, 6), torch.arange(3)
    full = model.decode(model.encode(scenes), tokens, rows)
    with torch.autocast("cpu", torch.bfloat16):
        memory = model.encode(scenes)
        logits = model.decode(memory, tokens, rows)
        found = generate(model, memory, GenerationSettings(beams=2, max_length=8))
    assert memory.change.dtype == torch.float32
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - full).abs().max() < 0.05 * full.abs().max()
    assert all(len(pair) == 1 and pair[0].tokens[-1] == 3 for pair in found)


def test_it_learns_to_tell_pairs_apart(scenes):
    sentences = [[4, 5, 6, 7], [8, 9], [10, 4, 4, 9, 5]]
    tokens = torch.tensor([[2, *words, 3] + [0] * (5 - len(words)) for words in sentences])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SageCC(settings({"width": 16}, {"width": 16, "dropout": 0.0}), 11, SCENE)
        optimiser = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(60):
            loss = caption_loss(model.decode(model.encode(scenes), tokens[:, :-1], torch.arange(3)), tokens[:, 1:])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval()
    with torch.no_grad():
        memory = model.encode(scenes)
    found = generate(model, memory, GenerationSettings(beams=3, max_length=10))
    assert [list(pair[0].tokens[:-1]) for pair in found] == sentences


CHOICES = [
    ("paper", {}),
    ("paper", {"paper": {"pooling": "attention", "condition": "projected", "empty": "zero", "region_feedforward": 2}}),
    ("paper", {"paper": {"dates_apart": True}, "evidence": {"top_q": 2}, "graph_encoder": {"readout": "attention"}}),
    ("release", {}),
    ("release", {"decoder": {"spatial_bias": False}, "evidence": {"top_q": 2}}),
    ("release", {"decoder": {"norm": "post", "bias_scope": "layer"}, "evidence": {"graph": False}}),
]
each = pytest.mark.parametrize(("fusion", "changes"), CHOICES, ids=str)


def changed_evidence(evidence: Evidence, change) -> Evidence:
    return replace(evidence, motion=change(evidence.motion), semantics=change(evidence.semantics))


@each
def test_a_pair_alone_and_in_any_batch_fused_sage_cc(scenes, fusion, changes):
    model, evidence, tokens = make_fused(fusion, **changes), make_evidence(), captions(3, 6)
    together = model.decode(model.encode(scenes, evidence), tokens, torch.arange(3))
    order = torch.tensor([2, 0, 2, 1])
    memory = model.encode(scenes[order], evidence.select(order))
    torch.testing.assert_close(model.decode(memory, tokens[order], torch.arange(4)), together[order], atol=1e-5, rtol=0)
    for pair in range(3):
        row = torch.tensor([pair])
        memory = model.encode(scenes[row], evidence.select(row))
        alone = model.decode(memory, tokens[row], torch.tensor([0]))
        torch.testing.assert_close(alone[0], together[pair], atol=1e-5, rtol=0)


@each
def test_padding_changes_nothing(scenes, fusion, changes):
    model, evidence, tokens, rows = make_fused(fusion, **changes), make_evidence(), captions(3, 6), torch.arange(3)
    expected = model.decode(model.encode(scenes, evidence), tokens, rows)
    for more in (1, 7):
        padded = changed_evidence(evidence, lambda regions, more=more: padded_further(regions, more))
        torch.testing.assert_close(
            model.decode(model.encode(scenes, padded), tokens, rows), expected, atol=1e-5, rtol=0
        )


@each
def test_more_regions_than_in_training_are_taken(scenes, fusion, changes):
    few, many = make_evidence((1, 0, 2), (1, 1, 0)), make_evidence((60, 3, 45), (70, 1, 90), seed=3)
    model, tokens, rows = make_fused(fusion, **changes).train(), captions(3, 6), torch.arange(3)
    caption_loss(model.decode(model.encode(scenes, few), tokens, rows), tokens).backward()
    model.eval()
    memory = model.encode(scenes, many)
    assert model.decode(memory, tokens, rows).isfinite().all()
    assert len(generate(model, memory, GenerationSettings(beams=2, max_length=6))) == 3


@each
def test_the_order_of_regions_changes_nothing(scenes, fusion, changes):
    model, evidence, tokens, rows = make_fused(fusion, **changes), make_evidence(), captions(3, 6), torch.arange(3)
    expected = model.decode(model.encode(scenes, evidence), tokens, rows)
    turned = changed_evidence(evidence, shuffled)
    torch.testing.assert_close(model.decode(model.encode(scenes, turned), tokens, rows), expected, atol=1e-5, rtol=0)


@each
def test_pairs_without_any_region(scenes, fusion, changes):
    """No column, rows wholly masked, or a neighbour with regions: one and the same to a pair that has none."""
    model, tokens, rows = make_fused(fusion, **changes), captions(3, 6), torch.arange(3)
    nothing = make_evidence((0, 0, 0), (0, 0, 0))
    assert nothing.motion.features.shape[1] == 0
    expected = model.decode(model.encode(scenes, nothing), tokens, rows)
    assert expected.isfinite().all()
    masked = changed_evidence(nothing, lambda regions: padded_further(regions, 3))
    torch.testing.assert_close(model.decode(model.encode(scenes, masked), tokens, rows), expected, atol=1e-5, rtol=0)
    some = model.decode(model.encode(scenes, make_evidence((3, 0, 0), (1, 0, 0))), tokens, rows)
    torch.testing.assert_close(some[1:], expected[1:], atol=1e-5, rtol=0)
    assert (some[0] - expected[0]).abs().max() > 1e-4


@each
@pytest.mark.parametrize("part", ["motion", "semantics", "graph"])
def test_every_part_counts_unless_it_is_off(scenes, fusion, changes, part):
    if not changes.get("evidence", {}).get(part, True):
        return
    tokens, rows, evidence = captions(3, 6), torch.arange(3), make_evidence((2, 1, 4), (3, 1, 2))
    if part == "graph":
        other = replace(evidence, graph=replace(evidence.graph, features=evidence.graph.features + 1))
    else:
        regions = getattr(evidence, part)
        other = replace(evidence, **{part: replace(regions, features=regions.features + 1)})
    off = {**changes, "evidence": {**changes.get("evidence", {}), part: False}}
    for chosen, counts in ((changes, True), (off, False)):
        model = make_fused(fusion, **chosen)
        first, second = (model.decode(model.encode(scenes, given), tokens, rows) for given in (evidence, other))
        moved = (first - second).abs().amax((1, 2))
        assert (moved > 1e-5).all() if counts else torch.equal(first, second)


@each
def test_every_weight_learns_fused_sage_cc(scenes, fusion, changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SageCC(fused_settings(fusion, **changes), VOCABULARY, SCENE, WIDTHS)
        if fusion == "paper":
            with torch.no_grad():  # where all queries and empty vectors are zero, some gradients vanish
                for name, weight in model.named_parameters():
                    if name.endswith("pooling.query"):
                        weight.normal_()
        memory = model.encode(scenes, make_evidence())
        caption_loss(model.decode(memory, captions(3, 6), torch.arange(3)), captions(3, 6)).backward()
    silent = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert not silent
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("fusion", ["paper", "release"])
@pytest.mark.parametrize("graph", [True, False])
def test_training_without_any_region_gives_numbers(scenes, fusion, graph):
    """And a gradient for every weight, if only zero, which training on several devices asks for."""
    model = make_fused(fusion, evidence={"graph": graph}).train()
    memory = model.encode(scenes, make_evidence((0, 0, 0), (0, 0, 0)))
    caption_loss(model.decode(memory, captions(3, 6), torch.arange(3)), captions(3, 6)).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("fusion", ["none", "paper", "release"])
def test_scene_encoder_and_decoder_start_the_same_with_every_fusion(fusion):
    def weights(kind):
        torch.manual_seed(3)
        return SageCC(fused_settings(kind), VOCABULARY, SCENE, WIDTHS).state_dict()

    with torch.random.fork_rng():
        bare, fused = weights("none"), weights(fusion)
    assert all(torch.equal(fused[name], value) for name, value in bare.items())
    assert all(name.startswith("fusion.") for name in fused.keys() - bare.keys())


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_nothing_changed_where_both_images_are_the_same(scenes, fusion):
    same_twice = scenes[:, :1].expand(-1, 2, -1, -1, -1)
    memory = make_fused(fusion).encode(same_twice, make_evidence())
    assert torch.equal(memory.change, torch.zeros(3, 2, 3))
    assert torch.equal(memory.consistency, torch.ones(3, 2, 3))


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_zero_weights_are_no_bias(scenes, fusion):
    biased, free = make_fused(fusion), make_fused(fusion, decoder={"spatial_bias": False})
    free.load_state_dict({name: value for name, value in biased.state_dict().items() if name in free.state_dict()})
    tokens, rows = captions(3, 5), torch.arange(3)
    memory = biased.encode(scenes, make_evidence())
    without = free.decode(memory, tokens, rows)
    assert (biased.decode(memory, tokens, rows) - without).abs().max() > 1e-4
    with torch.no_grad():
        biased.decoder.alpha.zero_()
        biased.decoder.beta.zero_()
    torch.testing.assert_close(biased.decode(memory, tokens, rows), without, atol=1e-6, rtol=0)


def test_the_bias_falls_on_the_grid_alone(scenes):
    """Equation (18) where the memory holds more than the grid: nothing is added elsewhere, and padding is shut."""
    model = make_fused("release")
    memory = model.encode(scenes, make_evidence())
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
        memory = model.encode(scenes, make_evidence((2, 0, 4, 1, 0), (3, 1, 0, 2, 0)))
    settings = GenerationSettings(beams=beams, max_length=12, n_best=min(beams, 2), length_penalty=0.7)
    cached = generate(model, memory, settings)
    recomputed = generate(Recomputing(model), memory, settings)
    for row in range(5):
        same(cached[row], recomputed[row])
        same(cached[row], plain_generate(model, memory, row, settings))


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_autocast_agrees_with_full_precision_fused_sage_cc(scenes, fusion):
    model, evidence = make_fused(fusion), make_evidence()
    tokens, rows = captions(3, 6), torch.arange(3)
    full = model.decode(model.encode(scenes, evidence), tokens, rows)
    with torch.autocast("cpu", torch.bfloat16):
        memory = model.encode(scenes, evidence)
        logits = model.decode(memory, tokens, rows)
        found = generate(model, memory, GenerationSettings(beams=2, max_length=8))
    assert (logits.float() - full).abs().max() < 0.1 * full.abs().max()
    assert all(len(pair) == 1 for pair in found)


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_no_look_falls_on_padding(scenes, fusion):
    model = make_fused(fusion)
    memory = model.encode(scenes, make_evidence())
    tokens = captions(3, 5)
    with torch.no_grad():
        looked = model.cross_attention(memory, tokens, torch.arange(3))
    assert looked.shape == (3, 5, 2, 2, memory.tokens.shape[1])
    torch.testing.assert_close(looked.sum(-1), torch.ones(3, 5, 2, 2))
    if memory.mask is not None:
        assert not looked.masked_fill(memory.mask[:, None, None, None], 0.0).any()


@pytest.mark.parametrize("fusion", ["none", "paper", "release"])
def test_an_explanation_is_taken_apart_by_what_was_looked_at(scenes, fusion):
    model, evidence = make_fused(fusion), make_evidence()
    memory = model.encode(scenes, evidence)
    looked = by_section(explain(model, memory, (5, 7, 3), row=0), memory)
    if fusion != "release":
        assert list(looked) == ["image"]
        assert looked["image"].shape == (3, 2, 2, 6)
        return
    assert list(looked) == ["image", "motion", "semantics", "nodes", "image attended"]
    torch.testing.assert_close(sum(part.sum(-1) for part in looked.values()), torch.ones(3, 2, 2))
    for name in ("motion", "semantics"):
        there = getattr(evidence, name).mask[0]
        assert (looked[name][..., there] > 0).all()
        assert not looked[name][..., ~there].any()


@each
def test_the_same_step_gives_the_same_bits(scenes, fusion, changes):
    def step():
        torch.manual_seed(4)
        model = SageCC(fused_settings(fusion, **changes), VOCABULARY, SCENE, WIDTHS)
        memory = model.encode(scenes, make_evidence())
        caption_loss(model.decode(memory, captions(3, 6), torch.arange(3)), captions(3, 6)).backward()
        return [weight.grad for weight in model.parameters()]

    with deterministic(torch.device("cpu")):
        assert all(torch.equal(first, second) for first, second in zip(step(), step(), strict=True))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@each
def test_a_gpu_finds_the_same_captions(scenes, fusion, changes):
    model, evidence, device = make_fused(fusion, **changes), make_evidence(), torch.device("cuda")
    settings = GenerationSettings(beams=3, max_length=12, n_best=3)
    with torch.no_grad():
        expected = generate(model, model.encode(scenes, evidence), settings)
        moved = model.to(device)
        found = generate(moved, moved.encode(scenes.to(device), evidence.to(device)), settings)
    for ours, theirs in zip(found, expected, strict=True):
        same(ours, theirs, tolerance=1e-3)


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_regions_are_dropped_in_training_only(scenes, fusion):
    model, plain = (make_fused(fusion, evidence={"drop": drop}) for drop in (0.5, 0.0))
    evidence = make_evidence()
    assert torch.equal(model.encode(scenes, evidence).tokens, plain.encode(scenes, evidence).tokens)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()

    def encoded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        memory = model.encode(scenes, evidence)
        return memory.tokens if memory.condition is None else memory.condition

    assert torch.equal(encoded(1), encoded(1))
    assert not torch.equal(encoded(1), encoded(2))
