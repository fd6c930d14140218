from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.captioners.attention_maps import by_section, explain
from pipeline.captioners.generation import generate
from pipeline.captioners.layers import GridPositions, sinusoid
from pipeline.captioners.sage_cc import SageCC
from pipeline.captioners.scene_encoder import compare, fuse
from pipeline.captioners.settings import GenerationSettings
from pipeline.errors import CheckpointError, SettingsError
from tests.captioners import plain
from tests.captioners.fused import SHAPES, fused_settings, make_side_inputs
from tests.captioners.small import SCENE, VOCABULARY, captions, make_model, stir


@pytest.mark.parametrize("norm", ["none", "pre", "post"])
@pytest.mark.parametrize("feedforward", [0, 2])
def test_blocks_are_equations_1_to_3(scenes, norm, feedforward):
    encoder = make_model({"norm": norm, "feedforward": feedforward}).scene
    first, second = encoder.refine(scenes)

    def branch(x, memory_of, index, block, module):
        norm_layer = block.norms[index]
        inner = plain.layer_norm(x, norm_layer) if norm == "pre" else x
        if index == 2:
            update = plain.feedforward(inner, module)
        else:
            update, _ = plain.attention(inner, memory_of(inner), module)
        return plain.layer_norm(x + update, norm_layer) if norm == "post" else x + update

    for pair in range(len(scenes)):
        flat = [plain.array(scenes[pair, date]).reshape(SCENE[0], -1).T for date in (0, 1)]
        F = [plain.linear(x, encoder.project) + plain.array(encoder.positions()) for x in flat]
        for block in encoder.blocks:
            H = [branch(x, lambda x: x, 0, block, block.within) for x in F]
            inner = [plain.layer_norm(x, block.norms[1]) if norm == "pre" else x for x in H]
            both = np.concatenate(inner)
            F = [branch(x, lambda _, both=both: both, 1, block, block.across) for x in H]
            if feedforward:
                F = [branch(x, lambda x: x, 2, block, block.feedforward) for x in F]
        F = [plain.layer_norm(x, encoder.norm) for x in F]
        np.testing.assert_allclose(plain.array(first[pair]), F[0], atol=1e-5)
        np.testing.assert_allclose(plain.array(second[pair]), F[1], atol=1e-5)


def test_maps_are_equation_4(scenes):
    first, second = make_model().scene.refine(scenes)
    change, consistency = compare(first, second)
    for pair in range(len(scenes)):
        for cell in range(first.shape[1]):
            a, b = plain.array(first[pair, cell]), plain.array(second[pair, cell])
            S = a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)
            assert consistency[pair, cell].item() == pytest.approx((S + 1) / 2, abs=1e-6)
            assert change[pair, cell].item() == pytest.approx(1 - (S + 1) / 2, abs=1e-6)


def test_maps_reach_both_ends_and_stay_float32_under_autocast():
    x = torch.randn(1, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        change, consistency = compare(x.bfloat16(), -x.bfloat16())
    assert change.dtype == consistency.dtype == torch.float32
    torch.testing.assert_close(change, torch.ones(1, 5))
    torch.testing.assert_close(consistency, torch.zeros(1, 5), atol=1e-6, rtol=0)
    assert change.max() <= 1


def test_fusion_is_equation_5(scenes):
    first, second = make_model().scene.refine(scenes)
    change, consistency = compare(first, second)
    G = fuse(first, second, change, consistency)
    width = first.shape[2]
    assert G.shape == (3, 6, 3 * width + 1)
    for cell in range(6):
        for c in range(width):
            a, b = first[1, cell, c].item(), second[1, cell, c].item()
            M, C = change[1, cell].item(), consistency[1, cell].item()
            expected = [a * C, b * C, abs(a - b) * M, M]
            values = [G[1, cell, i].item() for i in (c, width + c, 2 * width + c, 3 * width)]
            assert values == pytest.approx(expected, abs=1e-6)


def test_head_is_equation_6(scenes):
    encoder = make_model({"head_layers": 2}).scene
    with torch.no_grad():
        memory = encoder(scenes)
        first, second = encoder.refine(scenes)
        G = fuse(first, second, *compare(first, second))
    for pair in range(len(scenes)):
        x = plain.array(G[pair]).T.reshape(-1, *SCENE[1:])
        for index in range(0, 6, 3):
            norm = encoder.head[index + 1]
            x = plain.convolve(x, encoder.head[index])
            scale = plain.array(norm.weight) / np.sqrt(plain.array(norm.running_var) + norm.eps)
            x = (x - plain.array(norm.running_mean)[:, None, None]) * scale[:, None, None]
            x = np.maximum(x + plain.array(norm.bias)[:, None, None], 0)
        x = plain.convolve(x, encoder.head[6])
        np.testing.assert_allclose(plain.array(memory.tokens[pair]), x.reshape(len(x), -1).T, atol=1e-5)


def test_shapes(model, scenes):
    memory = model.encode({"scenes": scenes})
    assert len(memory) == 3
    assert memory.tokens.shape == (3, 6, 12)
    assert memory.change.shape == memory.consistency.shape == (3, 2, 3)
    assert memory.condition is None


@pytest.mark.parametrize("norm", ["none", "pre", "post"])
def test_identical_dates_show_no_change(norm):
    scene = torch.randn(4, 1, *SCENE).expand(-1, 2, -1, -1, -1)
    memory = make_model({"norm": norm}).encode({"scenes": scene})
    assert memory.change.max() <= 1e-6
    assert memory.consistency.min() >= 1 - 1e-6


def test_one_changed_cell_shows_most(model):
    scene = torch.randn(1, 1, *SCENE).repeat(1, 2, 1, 1, 1)
    scene[0, 1, :, 1, 2] += 20
    change = model.encode({"scenes": scene}).change[0]
    assert change.flatten().argmax() == 5


def test_unprojected_features_keep_their_channels(scenes):
    encoder = make_model({"width": None, "heads": 2}, shape=(8, 2, 3)).scene
    memory = encoder(torch.randn(2, 2, 8, 2, 3))
    assert encoder.head[0].in_channels == 25
    assert memory.tokens.shape == (2, 6, 12)


def test_unprojected_features_must_suit_the_heads():
    with pytest.raises(SettingsError, match="6 feature channels are not a multiple of 2 heads and of 4"):
        make_model({"width": None})


@pytest.mark.parametrize("shape", [(3, 2, 7, 2, 3), (3, 2, 6, 3, 2), (3, 1, 6, 2, 3), (2, 6, 2, 3)])
def test_other_shapes_are_refused(model, shape):
    with pytest.raises(CheckpointError) as caught:
        model.encode({"scenes": torch.zeros(shape)})
    assert "(pairs, 2, 6, 2, 3)" in caught.value.what
    assert f"({', '.join(map(str, shape))})" in caught.value.what
    assert caught.value.fix is not None


def test_half_precision_features_are_taken(model, scenes):
    half = scenes.half()
    torch.testing.assert_close(model.encode({"scenes": half}).tokens, model.encode({"scenes": half.float()}).tokens)


def test_group_norm_does_not_look_at_other_pairs_in_training(scenes):
    encoder = make_model({"head_norm": "group", "dropout": 0.0, "width": 8}).scene.train()
    torch.testing.assert_close(encoder(scenes).tokens[:1], encoder(scenes[:1]).tokens, atol=1e-5, rtol=0)


def test_grid_positions_tell_rows_and_columns_apart():
    for learned in (True, False):
        table = GridPositions(2, 3, 8, learned=learned)()
        assert table.shape == (6, 8)
        torch.testing.assert_close(table[0, :4], table[2, :4])  # same row
        torch.testing.assert_close(table[1, 4:], table[4, 4:])  # same column
        assert len({tuple(row) for row in table.tolist()}) == 6


def test_sinusoid_values():
    table = sinusoid(5, 6)
    for position in range(5):
        for channel in range(3):
            angle = position / 10000 ** (channel / 3)
            assert table[position, channel].item() == pytest.approx(np.sin(angle), abs=1e-6)
            assert table[position, 3 + channel].item() == pytest.approx(np.cos(angle), abs=1e-6)


@pytest.fixture(params=["paper", "release"])
def sceneless(request: pytest.FixtureRequest) -> SageCC:
    """A captioner with learned tokens in the place of scenes, which reads semantic regions alone."""
    whole = fused_settings(request.param, inputs={"regions": False, "graph": False}, paper={"dates_apart": True})
    values = whole.model_dump() | {"scene": {"features": "none", "learned_tokens": 5, "channels": 12}}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SageCC(type(whole).model_validate(values), VOCABULARY, {"semantics": SHAPES["semantics"]})
        stir(model)
    return model.eval()


def test_every_pair_has_the_same_tokens_and_no_change(sceneless):
    memory = sceneless.scene(3)
    assert memory.tokens.shape == (3, 5, 12) and memory.change.shape == memory.consistency.shape == (3, 1, 5)
    assert torch.equal(memory.tokens[0], memory.tokens[2])
    assert not memory.change.any() and memory.consistency.eq(1).all()


def test_the_dates_of_regions_are_told_apart(sceneless):
    semantics, tokens, rows = make_side_inputs()["semantics"], captions(3, 6), torch.arange(3)
    forward = sceneless.decode(sceneless.encode({"semantics": semantics}), tokens, rows)
    assert semantics.dates is not None
    turned = semantics.map(lambda tensor: 1 - tensor if tensor.dtype == torch.int64 else tensor)
    backward = sceneless.decode(sceneless.encode({"semantics": turned}), tokens, rows)
    has_regions = semantics.mask.any(1)
    assert ((forward - backward).abs().amax((1, 2)) > 1e-3).tolist() == has_regions.tolist()


def test_captions_are_generated_and_explained(sceneless):
    memory = sceneless.encode(make_side_inputs())
    hypotheses = generate(sceneless, memory, GenerationSettings(beams=2, max_length=7))
    assert len(hypotheses) == 3
    attention = explain(sceneless, memory, hypotheses[0][0].tokens, 0)
    sections = by_section(attention, memory)
    assert sections["image"].shape[-1] == 5
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))


def test_every_weight_learns(sceneless):
    sceneless.train()
    memory = sceneless.encode(make_side_inputs())
    sceneless.decode(memory, captions(3, 6), torch.arange(3)).square().sum().backward()
    # The vector of an empty set is learnt from pairs without regions only.
    assert [name for name, weight in sceneless.named_parameters() if weight.grad is None] == []


def test_scenes_that_are_not_read_are_ignored(sceneless):
    scenes = torch.full((3, 2, *SCENE), torch.nan)
    memory = sceneless.encode({"scenes": scenes, **make_side_inputs()})
    expected = sceneless.encode(make_side_inputs())
    assert torch.equal(memory.tokens, expected.tokens) and torch.equal(memory.change, expected.change)
