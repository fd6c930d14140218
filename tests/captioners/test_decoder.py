from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.captioners.attention_maps import explain
from pipeline.captioners.decoder import Decoder
from pipeline.captioners.inputs import Memory
from pipeline.captioners.layers import sinusoid
from tests.captioners import plain
from tests.captioners.small import captions, make_model, settings, stir

CHOICES = [
    {"norm": "none"},
    {"norm": "post", "bias_scope": "layer"},
    {"norm": "pre", "tied": True},
    {"spatial_bias": False},
]


def plain_decoder(decoder: Decoder, memory: Memory, row: int, tokens: list[int]):
    """Equations (18) to (22) for one caption; also the cross-attention weights (T, L, H, S)."""
    width = decoder.width
    y = np.stack([plain.array(decoder.words.weight)[token] * np.sqrt(width) for token in tokens])
    y = y + plain.array(sinusoid(len(tokens), width))
    X = plain.array(memory.tokens[row])
    M, C = plain.array(memory.change[row]).ravel(), plain.array(memory.consistency[row]).ravel()
    r = np.zeros(width) if memory.condition is None else plain.array(memory.condition[row])
    record = []
    for index, layer in enumerate(decoder.layers):
        b = np.zeros(len(X))
        if decoder.alpha is not None:
            alpha, beta = plain.array(decoder.alpha), plain.array(decoder.beta)
            scope = index if len(alpha) > 1 else 0
            b = alpha[scope] * M + beta[scope] * C
        kind = layer.placement
        own = plain.layer_norm(y, layer.self_norm) if kind == "pre" else y
        attended, _ = plain.attention(own, own, layer.self_attention, causal=True)
        if kind == "none":
            words = attended
        else:
            words = y + attended if kind == "pre" else plain.layer_norm(y + attended, layer.self_norm)
        queries = plain.layer_norm(words, layer.cross_norm)
        Z, weights = plain.attention(queries, X, layer.cross_attention, bias=b)
        record.append(weights)
        fused = words + Z + r
        normed = plain.layer_norm(fused, layer.fused_norm)
        update = plain.feedforward(normed, layer.feedforward)
        if kind == "none":
            y = update
        else:
            y = fused + update if kind == "pre" else plain.layer_norm(normed + update, layer.output_norm)
    return plain.linear(plain.layer_norm(y, decoder.norm), decoder.logits), np.stack(record, axis=1)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("conditioned", [False, True])
def test_decoder_is_equations_18_to_22(scenes, choice, conditioned):
    model = make_model(decoder=choice)
    memory = model.encode({"scenes": scenes})
    if conditioned:
        memory = replace(memory, condition=torch.randn(3, 8))
    tokens, rows = captions(4, 5), torch.tensor([2, 0, 0, 1])
    with torch.no_grad():
        logits = model.decode(memory, tokens, rows)
        weights = model.cross_attention(memory, tokens, rows)
    assert logits.shape == (4, 5, 11)
    for caption in range(4):
        expected, expected_weights = plain_decoder(model.decoder, memory, int(rows[caption]), tokens[caption].tolist())
        np.testing.assert_allclose(plain.array(logits[caption]), expected, atol=1e-5)
        np.testing.assert_allclose(plain.array(weights[caption]), expected_weights, atol=1e-5)


def test_condition_of_zero_is_no_condition(model, memory):
    tokens, rows = captions(3, 5), torch.arange(3)
    zero = replace(memory, condition=torch.zeros(3, 8))
    torch.testing.assert_close(model.decode(zero, tokens, rows), model.decode(memory, tokens, rows))


def test_future_words_change_nothing(model, memory):
    tokens = captions(1, 6)
    other = tokens.clone()
    other[0, 4:] = 4 + (tokens[0, 4:] - 3) % 7
    row = torch.tensor([0])
    before, after = model.decode(memory, tokens, row), model.decode(memory, other, row)
    torch.testing.assert_close(before[:, :4], after[:, :4], atol=1e-6, rtol=0)
    assert (before[:, 4:] - after[:, 4:]).abs().max() > 1e-3


def test_padding_changes_nothing(model, memory):
    tokens, rows = captions(3, 5), torch.arange(3)
    padded = torch.cat([tokens, torch.zeros(3, 4, dtype=torch.long)], dim=1)
    torch.testing.assert_close(
        model.decode(memory, padded, rows)[:, :5], model.decode(memory, tokens, rows), atol=1e-5, rtol=0
    )


def test_zero_weights_are_no_bias(scenes):
    biased, free = make_model(), make_model(decoder={"spatial_bias": False})
    weights = {name: value for name, value in biased.state_dict().items() if name in free.state_dict()}
    free.load_state_dict(weights)
    memory, tokens, rows = biased.encode({"scenes": scenes}), captions(3, 5), torch.arange(3)
    without = free.decode(memory, tokens, rows)
    assert (biased.decode(memory, tokens, rows) - without).abs().max() > 1e-4
    with torch.no_grad():
        biased.decoder.alpha.zero_()
        biased.decoder.beta.zero_()
    torch.testing.assert_close(biased.decode(memory, tokens, rows), without)


@pytest.mark.parametrize("scope", ["shared", "layer"])
def test_gradients_reach_both_bias_weights(scenes, scope):
    model = make_model(decoder={"bias_scope": scope, "layers": 2})
    model.decode(model.encode({"scenes": scenes}), captions(3, 5), torch.arange(3)).square().sum().backward()
    for weight in (model.decoder.alpha, model.decoder.beta):
        assert weight.shape == ((2,) if scope == "layer" else (1,))
        assert weight.grad.abs().min() > 0


def test_a_strong_bias_draws_attention_to_the_changed_cell(model, memory):
    change = torch.zeros_like(memory.change)
    change[1, 1, 2] = 1
    with torch.no_grad():
        model.decoder.alpha.fill_(50.0)
        model.decoder.beta.fill_(0.0)
    attention = explain(model, replace(memory, change=change, consistency=1 - change), (5, 7, 3), row=1)
    assert attention.shape == (3, 2, 2, 6)
    torch.testing.assert_close(attention[..., 5], torch.ones(3, 2, 2))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("conditioned", [False, True])
def test_steps_equal_the_whole(scenes, choice, conditioned):
    """Beams change places at random and a pair leaves; every step's logits equal those of the full caption."""
    model = make_model(decoder=choice)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        memory = model.encode({"scenes": scenes})
        if conditioned:
            memory = replace(memory, condition=torch.randn(3, 8, generator=generator))
        state = model.start(memory, beams=4, length=8)
        pairs = torch.arange(3)
        written = torch.full((3, 4, 1), 2)
        for position in range(8):
            logits = model.step(state, written[:, :, -1], position)
            rows = pairs.repeat_interleave(4)
            whole = model.decode(memory, written.flatten(0, 1), rows)[:, -1].view(len(pairs), 4, -1)
            torch.testing.assert_close(logits, whole, atol=1e-5, rtol=0)
            parents = torch.randint(0, 4, (len(pairs), 4), generator=generator)
            model.reorder(state, parents)
            written = written.gather(1, parents[..., None].expand_as(written))
            if position == 4:
                staying = torch.tensor([2, 0])
                model.keep(state, staying)
                pairs, written = pairs[staying], written[staying]
            fresh = torch.randint(4, 11, (len(pairs), 4, 1), generator=generator)
            written = torch.cat([written, fresh], dim=-1)


def test_a_training_decoder_does_not_generate(model, memory):
    model.train()
    with pytest.raises(RuntimeError, match="eval"):
        model.start(memory, 2, 5)


def test_tied_words_are_one_weight():
    decoder = Decoder(settings(decoder={"tied": True}).decoder, 11, 12)
    assert decoder.logits.weight is decoder.words.weight
    stir(decoder)
    assert decoder.logits.bias.shape == (11,)
