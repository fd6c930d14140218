from __future__ import annotations

import torch

from pipeline.captioners.generation import generate
from pipeline.captioners.loss import caption_loss
from pipeline.captioners.sage_cc import SageCC
from pipeline.captioners.settings import GenerationSettings
from tests.captioners.small import SCENE, captions, make_model, settings


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
