from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.captioners.paper_fusion import Condition
from pipeline.captioners.positions import point_waves
from tests.captioners import plain
from tests.captioners.fused import make_evidence, make_fused
from tests.captioners.small import captions, stir

CHOICES = [
    {},
    {"paper": {"pooling": "attention"}},
    {"paper": {"condition": "projected", "empty": "zero", "region_width": None}},
    {"paper": {"region_feedforward": 2}, "evidence": {"date_embedding": False, "top_q": 2}},
    {"paper": {"dates_apart": True, "pooling": "attention"}, "evidence": {"top_q": 2}},
    {"evidence": {"motion": False}},
    {"evidence": {"semantics": False}, "graph_encoder": {"readout": "attention"}},
    {"evidence": {"graph": False}},
    {"evidence": {"motion": False, "semantics": False, "frozen_graph": True}},
]


def plain_matrix(x, layer):
    """W x by loops."""
    W = plain.array(layer.weight)
    return np.array([sum(W[o, i] * x[i] for i in range(len(x))) for o in range(len(W))])


def plain_vector(module, regions, pair, top_q=None, date=None):
    """F_disc or F_sem of one pair."""
    if module.dates_apart and date is None:
        return np.concatenate([plain_vector(module, regions, pair, top_q, date) for date in (0, 1)])
    there = regions.mask[pair].nonzero().squeeze(1).tolist()
    if top_q:
        there = sorted(there, key=lambda i: -regions.scores[pair, i].item())[:top_q]
    members = []
    for i in there:
        if date is not None and regions.dates[pair, i] != date:
            continue
        x = plain.array(regions.features[pair, i])[None]
        if module.tokens.project.__class__.__name__ == "Linear":
            x = plain.linear(x, module.tokens.project)
        if module.tokens.centroid_width:
            x = np.concatenate([x, plain.array(point_waves(regions.centroids[pair, i], 8, 4))[None]], axis=1)
        if module.tokens.dates is not None:
            x = x + plain.array(module.tokens.dates)[int(regions.dates[pair, i])]
        if module.tokens.feedforward is not None:
            x = x + plain.feedforward(x, module.tokens.feedforward)
        members.append(x[0])
    if not members:
        return np.zeros(module.tokens.width) if module.pooling.empty is None else plain.array(module.pooling.empty)
    weights = np.full(len(members), 1 / len(members))
    if module.pooling.query is not None:
        q = plain.array(module.pooling.query)
        weights = plain.softmax(np.array([q @ x / np.sqrt(len(x)) for x in members]))
    return sum(weight * x for weight, x in zip(weights, members, strict=True))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_r_is_equation_17(scenes, choice):
    model = make_fused("paper", **choice)
    fusion, evidence = model.fusion, make_evidence()
    with torch.no_grad():
        memory = model.encode(scenes, evidence)
        F_kg = None if fusion.graph is None else plain.array(fusion.graph(evidence.graph)[0])
    assert memory.condition.shape == (3, 8)
    assert memory.mask is None
    for pair in range(3):
        vectors = []
        if fusion.motion is not None:
            vectors.append(plain_vector(fusion.motion, evidence.motion, pair))
        if fusion.semantics is not None:
            vectors.append(plain_vector(fusion.semantics, evidence.semantics, pair, fusion.top_q))
        if F_kg is not None:
            vectors.append(F_kg)
        parts = [plain_matrix(x, W) for x, W in zip(vectors, fusion.condition.parts, strict=True)]
        r = plain.layer_norm(np.concatenate(parts)[None], fusion.condition.norm)
        if choice.get("paper", {}).get("condition") == "projected":
            r = plain.linear(r, fusion.condition.project)
        np.testing.assert_allclose(plain.array(memory.condition[pair]), r[0], atol=1e-5)


@pytest.mark.parametrize(("parts", "shares"), [(1, [8]), (2, [4, 4]), (3, [2, 3, 3])])
def test_parts_share_the_width(parts, shares):
    condition = Condition([5, 6, 7][:parts], 8, "split")
    assert [part.out_features for part in condition.parts] == shares
    assert condition([torch.zeros(2, size) for size in [5, 6, 7][:parts]]).shape == (2, 8)
    projected = Condition([5, 6, 7][:parts], 8, "projected")
    assert [part.out_features for part in projected.parts] == [8] * parts
    assert projected.norm.normalized_shape == (8 * parts,)
    stir(projected)
    assert projected([torch.zeros(2, size) for size in [5, 6, 7][:parts]]).shape == (2, 8)


@pytest.mark.parametrize("apart", [False, True])
def test_motion_regions_are_told_by_place_and_date(scenes, apart):
    model, evidence = make_fused("paper", paper={"dates_apart": apart}), make_evidence()
    evidence.motion.dates.zero_()
    tokens, rows = captions(3, 5), torch.arange(3)
    before = model.decode(model.encode(scenes, evidence), tokens, rows)
    for field in ("centroids", "dates"):
        changed = make_evidence()
        changed.motion.dates.zero_()
        tensor = getattr(changed.motion, field)
        tensor.copy_(1 - tensor)
        after = model.decode(model.encode(scenes, changed), tokens, rows)
        moved = (after - before).abs().amax((1, 2))
        assert moved[1] == 0  # has no motion regions
        assert (moved[[0, 2]] > 1e-4).all()


def test_dates_apart_tell_what_came_from_what_went(scenes):
    """The mean over one set forgets whose date is whose, even with a date embedding."""
    for apart in (False, True):
        model = make_fused("paper", paper={"dates_apart": apart})
        evidence, swapped = make_evidence((2, 2, 2)), make_evidence((2, 2, 2))
        evidence.motion.dates.copy_(torch.tensor([0, 1]).expand(3, 2))
        swapped.motion.dates.copy_(torch.tensor([1, 0]).expand(3, 2))
        found, other = (model.encode(scenes, given).condition for given in (evidence, swapped))
        assert torch.allclose(found, other, atol=1e-5) != apart


def test_scenes_stay_what_they_were(scenes):
    """The paper's fusion leaves tokens and maps alone."""
    with_evidence = make_fused("paper")
    memory, bare = with_evidence.encode(scenes, make_evidence()), with_evidence.scene(scenes)
    assert torch.equal(memory.tokens, bare.tokens)
    assert torch.equal(memory.change, bare.change)
    assert bare.condition is None
