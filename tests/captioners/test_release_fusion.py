from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.captioners.fusion_settings import ReleaseFusionSettings
from pipeline.captioners.release_fusion import CrossBlock
from tests.captioners import plain
from tests.captioners.fused import make_evidence, make_fused
from tests.captioners.small import stir

CHOICES = [
    {},
    {"evidence": {"motion": False}},
    {"evidence": {"semantics": False, "date_embedding": False}},
    {"evidence": {"graph": False}},
    {"evidence": {"motion": False, "graph": False, "top_q": 1}},
]


def plain_block(block, x, memory):
    """y = x + CA(LN x, LN m), then y + FFN(LN y)."""
    y = x
    if len(memory):
        seeking, seen = plain.layer_norm(x, block.query_norm), plain.layer_norm(memory, block.memory_norm)
        y = x + plain.attention(seeking, seen, block.attention)[0]
    return y + plain.feedforward(plain.layer_norm(y, block.feedforward_norm), block.feedforward)


def plain_tokens(fusion, evidence, pair):
    """The tokens of a pair's regions and of the nodes, without padding."""
    found = []
    for module, regions, top in (
        (fusion.motion, evidence.motion, None),
        (fusion.semantics, evidence.semantics, fusion.top_q),
    ):
        if module is None:
            continue
        there = regions.mask[pair].nonzero().squeeze(1).tolist()
        if top:
            there = sorted(there, key=lambda i: -regions.scores[pair, i].item())[:top]
        for i in there:
            x = plain.linear(plain.array(regions.features[pair, i])[None], module.project)[0]
            found.append(x if module.dates is None else x + plain.array(module.dates)[int(regions.dates[pair, i])])
    if fusion.graph is not None:
        with torch.no_grad():
            found.extend(plain.linear(plain.array(fusion.graph(evidence.graph)[0]), fusion.nodes))
    return np.stack(found) if found else np.zeros((0, 12))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_memory_is_the_cross_attention_of_both_sides(scenes, choice):
    model, evidence = make_fused("release", **choice), make_evidence()
    with torch.no_grad():
        memory = model.encode(scenes, evidence)
        image = model.scene(scenes).tokens
    assert memory.condition is None
    for pair in range(3):
        X, E = plain.array(image[pair]), plain_tokens(model.fusion, evidence, pair)
        answered = plain_block(model.fusion.evidence_block, E, X) if len(E) else E
        expected = np.concatenate([X, answered, plain_block(model.fusion.image_block, X, E)])
        np.testing.assert_allclose(plain.array(memory.tokens[pair][memory.mask[pair]]), expected, atol=1e-5)


def test_sections_tell_the_tokens(scenes):
    memory = make_fused("release").encode(scenes, make_evidence())
    assert memory.sections == (("image", 6), ("motion", 4), ("semantics", 3), ("nodes", 5), ("image attended", 6))
    assert memory.tokens.shape == (3, 24, 12)
    starts = {"image": 0, "motion": 6, "semantics": 10, "nodes": 13, "image attended": 18}
    for name, regions in (("motion", make_evidence().motion), ("semantics", make_evidence().semantics)):
        start = starts[name]
        assert torch.equal(memory.mask[:, start : start + regions.mask.shape[1]], regions.mask)
    assert memory.mask[:, :6].all() and memory.mask[:, 13:].all()
    chosen = memory.select(torch.tensor([2, 2, 0, 1]))
    assert chosen.sections == memory.sections
    assert torch.equal(chosen.mask, memory.mask[[2, 2, 0, 1]])


def test_a_block_with_nothing_to_attend_to():
    block = CrossBlock(4, ReleaseFusionSettings(heads=2, feedforward=2, dropout=0.0))
    stir(block)
    x, memory = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    expected = x + block.feedforward(block.feedforward_norm(x))
    torch.testing.assert_close(block(x, memory[:, :0], torch.ones(2, 0, dtype=torch.bool)), expected)
    half = torch.tensor([[False] * 5, [True] * 5])
    found = block(x, memory, half)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], block(x, memory, None)[1])
    assert block(x[:, :0], memory, None).shape == (2, 0, 4)
