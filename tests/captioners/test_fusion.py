from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.captioners.base import caption_loss
from pipeline.captioners.fusion import Condition, CrossBlock, GraphBranch, LearnedDescriptors, RegionTokens, keep_best
from pipeline.captioners.inputs import Regions
from pipeline.captioners.layers import point_waves
from pipeline.captioners.sage_cc import SageCC
from pipeline.captioners.settings import CrossAttentionSettings, SideInputSettings
from pipeline.errors import CheckpointError
from pipeline.graph_encoders.encoders import GraphEncoder
from tests.captioners import plain
from tests.captioners.fused import (
    SHAPES,
    fused_settings,
    make_fused,
    make_graph,
    make_regions,
    make_side_inputs,
    padded_further,
    select,
    shuffled,
)
from tests.captioners.small import VOCABULARY, captions, stir


@pytest.mark.parametrize("width", [6, None])
@pytest.mark.parametrize("dates", [True, False])
@pytest.mark.parametrize("centroid_width", [8, 0])
@pytest.mark.parametrize("feedforward", [0, 2])
def test_tokens_are_their_formula(width, dates, centroid_width, feedforward):
    regions = make_regions((2, 0, 4), 5, seed=0)
    module = RegionTokens(
        5, width, dates=dates, centroid_width=centroid_width, centroid_waves=4, feedforward=feedforward
    )
    stir(module)
    tokens = module(regions)
    assert tokens.shape == (3, 4, module.width)
    for pair, region in regions.mask.nonzero().tolist():
        x = plain.array(regions.features[pair, region])[None]
        if width:
            x = plain.linear(x, module.project)
        if centroid_width:
            x = np.concatenate([x, plain.array(point_waves(regions.centroids[pair, region], 8, 4))[None]], axis=1)
        if dates:
            x = x + plain.array(module.dates[int(regions.dates[pair, region])])
        if feedforward:
            x = x + plain.feedforward(x, module.feedforward)
        np.testing.assert_allclose(plain.array(tokens[pair, region]), x[0], atol=1e-5)


def test_padding_is_finite_and_changes_no_token():
    regions = make_regions((2, 0, 4), 5, seed=0)
    module = RegionTokens(5, 6, dates=True, centroid_width=8, centroid_waves=4, feedforward=2)
    tokens = module(padded_further(regions, 3))
    assert tokens.isfinite().all()
    torch.testing.assert_close(tokens[:, 3:][regions.mask], module(regions)[regions.mask])


def test_half_precision_features_are_taken():
    regions = make_regions((2, 1), 5, seed=0)
    halved = type(regions)(regions.features.half(), regions.mask)
    assert RegionTokens(5, 6, dates=False)(halved).dtype == torch.float32


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_the_best_are_equation_12(count):
    regions = padded_further(make_regions((3, 0, 5), 5, seed=0), 2)
    best_regions = keep_best(regions, count)
    assert best_regions.features.shape == (3, min(count, 7), 5)
    for pair in range(3):
        rows = [i for i in range(7) if regions.mask[pair, i]]
        best = sorted(rows, key=lambda i: -regions.scores[pair, i].item())[:count]
        chosen = best_regions.mask[pair]
        assert chosen.sum() == len(best)
        for name in ("features", "dates", "centroids", "scores"):
            assert torch.equal(getattr(best_regions, name)[pair][chosen], getattr(regions, name)[pair][best]), name


def test_equal_scores_keep_the_earlier_and_no_count_keeps_all():
    regions = make_regions((4,), 5, seed=0)
    level = type(regions)(regions.features, regions.mask, scores=torch.zeros(1, 4))
    assert torch.equal(keep_best(level, 2).features, regions.features[:, :2])
    assert keep_best(regions, None) is regions
    nothing = make_regions((0, 0), 5, seed=0)
    assert keep_best(nothing, 3).features.shape == (2, 0, 5)


GRIDS = 2 * 49
GRID_SHAPES = {**SHAPES, "regions": (GRIDS,)}
both = pytest.mark.parametrize("fusion", ["paper", "release"])


def make_head(width: int = 8) -> LearnedDescriptors:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = LearnedDescriptors(GRIDS, width)
        stir(module)
    return module


def make_model(fusion: str) -> SageCC:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SageCC(fused_settings(fusion, inputs={"descriptor_width": 8}), VOCABULARY, GRID_SHAPES)
        stir(model)
    return model.eval()


def with_grids() -> dict[str, Any]:
    return {**make_side_inputs(), "regions": make_regions((2, 0, 4), GRIDS, seed=3)}


def by_hand(grid: np.ndarray, module: LearnedDescriptors) -> np.ndarray:
    """Convolution 3×3 with a border of zeros, GELU, average, linear layer."""
    layer = module.head.convolution[0]
    weight, bias = plain.array(layer.weight), plain.array(layer.bias)
    wide = np.pad(grid, ((0, 0), (1, 1), (1, 1)))
    sums = np.zeros(len(bias))
    for unit in range(len(bias)):
        for row in range(7):
            for column in range(7):
                x = bias[unit] + (wide[:, row : row + 3, column : column + 3] * weight[unit]).sum()
                sums[unit] += x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
    return plain.linear(sums[None] / 49, module.head.projection)[0]


def test_descriptors_are_their_formula() -> None:
    regions, module = make_regions((2, 0, 4), GRIDS, seed=0), make_head()
    described = module(regions)
    assert described.features.shape == (3, 4, 8)
    assert not described.features[~regions.mask].any()
    for pair, region in regions.mask.nonzero().tolist():
        grid = plain.array(regions.features[pair, region]).reshape(2, 7, 7)
        np.testing.assert_allclose(plain.array(described.features[pair, region]), by_hand(grid, module), atol=1e-5)
    for name in ("mask", "dates", "centroids", "scores"):
        assert torch.equal(getattr(described, name), getattr(regions, name))


def test_pairs_without_regions_and_halved_grids_are_taken() -> None:
    module = make_head()
    assert module(make_regions((0, 0), GRIDS, seed=0)).features.shape == (2, 0, 8)
    regions = make_regions((2, 1), GRIDS, seed=0)
    assert module(Regions(regions.features.half(), regions.mask)).features.dtype == torch.float32


@pytest.mark.parametrize("features", [5, 48, 50])
def test_what_is_no_grid_is_refused(features: int) -> None:
    with pytest.raises(CheckpointError, match=f"{features} values are no 7×7 grids") as caught:
        LearnedDescriptors(features, 8)
    assert "regions.store=grids" in caught.value.fix


@both
def test_a_pair_alone_and_in_any_batch(scenes, fusion) -> None:
    model, side_inputs, tokens = make_model(fusion), with_grids(), captions(3, 6)
    together = model.decode(model.encode({"scenes": scenes, **side_inputs}), tokens, torch.arange(3))
    for pair in range(3):
        row = torch.tensor([pair])
        memory = model.encode({"scenes": scenes[row], **select(side_inputs, row)})
        torch.testing.assert_close(
            model.decode(memory, tokens[row], torch.tensor([0]))[0], together[pair], atol=1e-5, rtol=0
        )


@both
def test_neither_padding_nor_order_changes_anything(scenes, fusion) -> None:
    model, side_inputs, tokens = make_model(fusion), with_grids(), captions(3, 6)
    expected = model.decode(model.encode({"scenes": scenes, **side_inputs}), tokens, torch.arange(3))
    for change in (lambda regions: padded_further(regions, 3), shuffled):
        changed = {**side_inputs, "regions": change(side_inputs["regions"])}
        logits = model.decode(model.encode({"scenes": scenes, **changed}), tokens, torch.arange(3))
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@both
def test_the_head_learns_and_the_scenes_begin_as_without_it(scenes, fusion) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SageCC(fused_settings(fusion, inputs={"descriptor_width": 8}), VOCABULARY, GRID_SHAPES)
        torch.manual_seed(0)
        without = SageCC(fused_settings(fusion), VOCABULARY, SHAPES)
        loss = caption_loss(
            model.decode(model.encode({"scenes": scenes, **with_grids()}), captions(3, 6), torch.arange(3)),
            captions(3, 6),
        )
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.descriptors.named_parameters()}
    assert len(gradients) == 4 and all(grad is not None and grad.any() for grad in gradients.values())
    for part in ("scene", "decoder"):
        pairs = zip(getattr(model, part).parameters(), getattr(without, part).parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_without_regions_there_is_no_head() -> None:
    settings = fused_settings("paper", inputs={"descriptor_width": 8, "regions": False})
    shapes = {name: shape for name, shape in SHAPES.items() if name != "regions"}
    assert SageCC(settings, VOCABULARY, shapes).descriptors is None


def side_input_settings(**changes):
    encoder = {"widths": (6, 4), "bases": None, "inverse": False, **changes.pop("graph_encoder", {})}
    return SideInputSettings.model_validate({"graph_encoder": encoder, **changes})


def plain_rgcn(branch, graph):
    """Equation (15) by loops: h_i' = W_0 h_i + Σ_r Σ_j W_r h_j / c_ir + b, ReLU between layers."""
    H = plain.array(graph.features)
    edges = list(zip(*graph.edge_index.tolist(), graph.edge_type.tolist(), strict=True))
    for number, layer in enumerate(branch.encoder.layers):
        if number:
            H = np.maximum(H, 0)
        rows = []
        for i in range(len(H)):
            row = H[i] @ plain.array(layer.root) + plain.array(layer.bias)
            for r in range(graph.relations):
                neighbours = [head for head, tail, kind in edges if tail == i and kind == r]
                for j in neighbours:
                    row = row + H[j] @ plain.array(layer.weight[r]) / len(neighbours)
            rows.append(row)
        H = np.stack(rows)
    return H


def test_states_are_equation_15_and_their_mean_16():
    branch = GraphBranch(side_input_settings(), 6, 4, readout=False).eval()
    graph = make_graph()
    expected = plain_rgcn(branch, graph)
    np.testing.assert_allclose(plain.array(branch(graph)[0]), expected, atol=1e-5)
    whole = GraphBranch(side_input_settings(), 6, 4, readout=True).eval()
    whole.encoder.load_state_dict(branch.encoder.state_dict())
    np.testing.assert_allclose(plain.array(whole(graph)[0]), expected.mean(0), atol=1e-5)


def test_attention_readout_is_equation_16():
    branch = GraphBranch(side_input_settings(graph_encoder={"readout": "attention"}), 6, 4, readout=True).eval()
    graph = make_graph()
    H = plain_rgcn(branch, graph)
    first, _, last = branch.readout.score
    weights = plain.softmax(np.tanh(plain.linear(H, first)) @ plain.array(last.weight)[0])
    read, shares = branch(graph)
    np.testing.assert_allclose(plain.array(read), weights @ H, atol=1e-5)
    np.testing.assert_allclose(plain.array(shares), weights, atol=1e-5)


@pytest.mark.parametrize("kind", ["rgcn", "gcn", "gat", "sage", "monet", "none"])
def test_every_kind_of_table_7_serves(kind):
    branch = GraphBranch(side_input_settings(graph_encoder={"kind": kind}), 6, 4, readout=True).eval()
    graph = make_graph()
    assert branch(graph)[0].shape == (4,)
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = branch(replace(graph, features=graph.features))
    assert torch.equal(half, branch(graph)[0])
    rounded = replace(graph, features=graph.features.half())
    assert branch(rounded)[0].dtype == torch.float32


def test_a_frozen_encoder_stays_as_it_is():
    branch = GraphBranch(
        side_input_settings(frozen_graph=True, graph_encoder={"readout": "attention"}), 6, 4, readout=True
    )
    branch.train()
    graph = make_graph()
    assert torch.equal(branch(graph)[0], branch(graph)[0])  # no dropout
    branch(graph)[0].sum().backward()
    assert all(weight.grad is None for weight in branch.encoder.parameters())
    assert all(weight.grad is not None for weight in branch.readout.parameters())


def test_a_trained_encoder_drops_out_and_learns():
    branch = GraphBranch(side_input_settings(graph_encoder={"dropout": 0.5}), 6, 4, readout=True).train()
    graph = make_graph()
    assert not torch.equal(branch(graph)[0], branch(graph)[0])
    branch(graph)[0].sum().backward()
    assert all(weight.grad.any() for weight in branch.encoder.parameters())


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_pretrained_weights_are_taken(fusion):
    model = make_fused(fusion)
    other = GraphEncoder(model.settings.inputs.graph_encoder, 6, 4)
    model.load_pretrained("graph", other.state_dict())
    weights = model.fusion.graph.encoder.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in other.state_dict().items())


def test_weights_of_another_encoder_are_refused(model):
    encoder = make_fused("paper").settings.inputs.graph_encoder
    other = GraphEncoder(encoder.model_copy(update={"widths": (3, 6)}), 6, 4)
    with pytest.raises(CheckpointError, match="has other layers") as caught:
        make_fused("paper").load_pretrained("graph", other.state_dict())
    assert "sagecc graph" in caught.value.fix
    for captioner, name in (
        (make_fused("paper", inputs={"graph": False}), "graph"),
        (model, "graph"),
        (make_fused("paper"), "regions"),
    ):
        with pytest.raises(ValueError, match=f"no pretrained weights of {name}"):
            captioner.load_pretrained(name, {})


def test_captioners_without_graph_do_not_wait_for_pytorch_geometric():
    code = "import sys, pipeline.captioners.sage_cc; sys.exit('torch_geometric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


CONDITION_CHOICES = [
    {},
    {"paper": {"pooling": "attention"}},
    {"paper": {"condition": "projected", "empty": "zero", "region_width": None}},
    {"paper": {"region_feedforward": 2}, "inputs": {"date_embedding": False, "top_q": 2}},
    {"paper": {"dates_apart": True, "pooling": "attention"}, "inputs": {"top_q": 2}},
    {"inputs": {"regions": False}},
    {"inputs": {"semantics": False}, "graph_encoder": {"readout": "attention"}},
    {"inputs": {"graph": False}},
    {"inputs": {"regions": False, "semantics": False, "frozen_graph": True}},
]


def plain_matrix(x, layer):
    """W x by loops."""
    W = plain.array(layer.weight)
    return np.array([sum(W[o, i] * x[i] for i in range(len(x))) for o in range(len(W))])


def plain_vector(module, regions, pair, top_q=None, date=None):
    """F_disc or F_sem of one pair."""
    if module.dates_apart and date is None:
        return np.concatenate([plain_vector(module, regions, pair, top_q, date) for date in (0, 1)])
    rows = regions.mask[pair].nonzero().squeeze(1).tolist()
    if top_q:
        rows = sorted(rows, key=lambda i: -regions.scores[pair, i].item())[:top_q]
    members = []
    for i in rows:
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


@pytest.mark.parametrize("choice", CONDITION_CHOICES, ids=str)
def test_r_is_equation_17(scenes, choice):
    model = make_fused("paper", **choice)
    fusion, side_inputs = model.fusion, make_side_inputs()
    with torch.no_grad():
        memory = model.encode({"scenes": scenes, **side_inputs})
        F_kg = None if fusion.graph is None else plain.array(fusion.graph(side_inputs["graph"])[0])
    assert memory.condition.shape == (3, 8)
    assert memory.mask is None
    for pair in range(3):
        vectors = []
        if fusion.motion is not None:
            vectors.append(plain_vector(fusion.motion, side_inputs["regions"], pair))
        if fusion.semantics is not None:
            vectors.append(plain_vector(fusion.semantics, side_inputs["semantics"], pair, fusion.top_q))
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
def test_regions_are_told_by_centroid_and_date(scenes, apart):
    model, side_inputs = make_fused("paper", paper={"dates_apart": apart}), make_side_inputs()
    side_inputs["regions"].dates.zero_()
    tokens, rows = captions(3, 5), torch.arange(3)
    before = model.decode(model.encode({"scenes": scenes, **side_inputs}), tokens, rows)
    for field in ("centroids", "dates"):
        changed = make_side_inputs()
        changed["regions"].dates.zero_()
        tensor = getattr(changed["regions"], field)
        tensor.copy_(1 - tensor)
        after = model.decode(model.encode({"scenes": scenes, **changed}), tokens, rows)
        moved = (after - before).abs().amax((1, 2))
        assert moved[1] == 0  # has no unmatched regions
        assert (moved[[0, 2]] > 1e-4).all()


def test_dates_apart_tell_what_came_from_what_went(scenes):
    """The mean over one set forgets whose date is whose, even with a date embedding."""
    for apart in (False, True):
        model = make_fused("paper", paper={"dates_apart": apart})
        side_inputs, swapped = make_side_inputs((2, 2, 2)), make_side_inputs((2, 2, 2))
        side_inputs["regions"].dates.copy_(torch.tensor([0, 1]).expand(3, 2))
        swapped["regions"].dates.copy_(torch.tensor([1, 0]).expand(3, 2))
        first, second = (model.encode({"scenes": scenes, **given}).condition for given in (side_inputs, swapped))
        assert torch.allclose(first, second, atol=1e-5) != apart


def test_scenes_stay_what_they_were(scenes):
    """The paper's fusion leaves tokens and maps alone."""
    model = make_fused("paper")
    memory, bare = model.encode({"scenes": scenes, **make_side_inputs()}), model.scene(scenes)
    assert torch.equal(memory.tokens, bare.tokens)
    assert torch.equal(memory.change, bare.change)
    assert bare.condition is None


CROSS_ATTENTION_CHOICES = [
    {},
    {"inputs": {"regions": False}},
    {"inputs": {"semantics": False, "date_embedding": False}},
    {"inputs": {"graph": False}},
    {"inputs": {"regions": False, "graph": False, "top_q": 1}},
    {"release": {"shared_norm": True}},
]


def plain_block(block, x, memory):
    """y = x + CA(LN x, LN' m), then y + FFN(LN y)."""
    y = x
    if len(memory):
        queries = plain.layer_norm(x, block.query_norm)
        keys = plain.layer_norm(memory, block.memory_norm or block.query_norm)
        y = x + plain.attention(queries, keys, block.attention)[0]
    return y + plain.feedforward(plain.layer_norm(y, block.feedforward_norm), block.feedforward)


def plain_tokens(fusion, side_inputs, pair):
    """The tokens of a pair's regions and of the nodes, without padding."""
    tokens = []
    for module, regions, top in (
        (fusion.motion, side_inputs["regions"], None),
        (fusion.semantics, side_inputs["semantics"], fusion.top_q),
    ):
        if module is None:
            continue
        rows = regions.mask[pair].nonzero().squeeze(1).tolist()
        if top:
            rows = sorted(rows, key=lambda i: -regions.scores[pair, i].item())[:top]
        for i in rows:
            x = plain.linear(plain.array(regions.features[pair, i])[None], module.project)[0]
            tokens.append(x if module.dates is None else x + plain.array(module.dates)[int(regions.dates[pair, i])])
    if fusion.graph is not None:
        with torch.no_grad():
            tokens.extend(plain.linear(plain.array(fusion.graph(side_inputs["graph"])[0]), fusion.nodes))
    return np.stack(tokens) if tokens else np.zeros((0, 12))


@pytest.mark.parametrize("choice", CROSS_ATTENTION_CHOICES, ids=str)
def test_memory_is_the_cross_attention_of_both_sides(scenes, choice):
    model, side_inputs = make_fused("release", **choice), make_side_inputs()
    with torch.no_grad():
        memory = model.encode({"scenes": scenes, **side_inputs})
        image = model.scene(scenes).tokens
    assert memory.condition is None
    for pair in range(3):
        X, E = plain.array(image[pair]), plain_tokens(model.fusion, side_inputs, pair)
        answered = plain_block(model.fusion.evidence_block, E, X) if len(E) else E
        expected = np.concatenate([X, answered, plain_block(model.fusion.image_block, X, E)])
        np.testing.assert_allclose(plain.array(memory.tokens[pair][memory.mask[pair]]), expected, atol=1e-5)


def test_a_shared_norm_is_one_norm_for_both_sides():
    names = {name for name, _ in make_fused("release", release={"shared_norm": True}).named_parameters()}
    assert not any("memory_norm" in name for name in names)
    assert any("evidence_block.memory_norm" in name for name, _ in make_fused("release").named_parameters())


def test_sections_tell_the_tokens(scenes):
    memory = make_fused("release").encode({"scenes": scenes, **make_side_inputs()})
    assert memory.sections == (("image", 6), ("motion", 4), ("semantics", 3), ("nodes", 5), ("image attended", 6))
    assert memory.tokens.shape == (3, 24, 12)
    starts = {"image": 0, "motion": 6, "semantics": 10, "nodes": 13, "image attended": 18}
    side_inputs = make_side_inputs()
    for name, regions in (("motion", side_inputs["regions"]), ("semantics", side_inputs["semantics"])):
        start = starts[name]
        assert torch.equal(memory.mask[:, start : start + regions.mask.shape[1]], regions.mask)
    assert memory.mask[:, :6].all() and memory.mask[:, 13:].all()
    chosen = memory.select(torch.tensor([2, 2, 0, 1]))
    assert chosen.sections == memory.sections
    assert torch.equal(chosen.mask, memory.mask[[2, 2, 0, 1]])


def test_a_block_with_nothing_to_attend_to():
    block = CrossBlock(4, CrossAttentionSettings(heads=2, feedforward=2, dropout=0.0))
    stir(block)
    x, memory = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    expected = x + block.feedforward(block.feedforward_norm(x))
    torch.testing.assert_close(block(x, memory[:, :0], torch.ones(2, 0, dtype=torch.bool)), expected)
    half = torch.tensor([[False] * 5, [True] * 5])
    attended = block(x, memory, half)
    torch.testing.assert_close(attended[0], expected[0])
    torch.testing.assert_close(attended[1], block(x, memory, None)[1])
    assert block(x[:, :0], memory, None).shape == (2, 0, 4)
