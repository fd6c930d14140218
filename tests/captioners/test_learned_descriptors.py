"""The head g of equation (8), trained with the captioner."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.captioners.evidence import Evidence, EvidenceWidths
from pipeline.captioners.learned_descriptors import LearnedDescriptors
from pipeline.captioners.loss import caption_loss
from pipeline.captioners.regions import Regions
from pipeline.captioners.sage_cc import SageCC
from pipeline.errors import CheckpointError
from tests.captioners import plain
from tests.captioners.fused import fused_settings, make_evidence, make_regions, padded_further, shuffled
from tests.captioners.small import SCENE, VOCABULARY, captions, stir

GRIDS = 2 * 49
WIDTHS = EvidenceWidths(motion=GRIDS, semantics=7, nodes=6, relations=4)
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
        model = SageCC(fused_settings(fusion, evidence={"descriptor_width": 8}), VOCABULARY, SCENE, WIDTHS)
        stir(model)
    return model.eval()


def with_grids() -> Evidence:
    return replace(make_evidence(), motion=make_regions((2, 0, 4), GRIDS, seed=3))


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
    found = module(regions)
    assert found.features.shape == (3, 4, 8)
    assert not found.features[~regions.mask].any()
    for pair, region in regions.mask.nonzero().tolist():
        grid = plain.array(regions.features[pair, region]).reshape(2, 7, 7)
        np.testing.assert_allclose(plain.array(found.features[pair, region]), by_hand(grid, module), atol=1e-5)
    for name in ("mask", "dates", "centroids", "scores"):
        assert torch.equal(getattr(found, name), getattr(regions, name))


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
    model, evidence, tokens = make_model(fusion), with_grids(), captions(3, 6)
    together = model.decode(model.encode(scenes, evidence), tokens, torch.arange(3))
    for pair in range(3):
        row = torch.tensor([pair])
        memory = model.encode(scenes[row], evidence.select(row))
        torch.testing.assert_close(
            model.decode(memory, tokens[row], torch.tensor([0]))[0], together[pair], atol=1e-5, rtol=0
        )


@both
def test_neither_padding_nor_order_changes_anything(scenes, fusion) -> None:
    model, evidence, tokens = make_model(fusion), with_grids(), captions(3, 6)
    expected = model.decode(model.encode(scenes, evidence), tokens, torch.arange(3))
    for change in (lambda regions: padded_further(regions, 3), shuffled):
        changed = replace(evidence, motion=change(evidence.motion))
        found = model.decode(model.encode(scenes, changed), tokens, torch.arange(3))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@both
def test_the_head_learns_and_the_scenes_begin_as_without_it(scenes, fusion) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SageCC(fused_settings(fusion, evidence={"descriptor_width": 8}), VOCABULARY, SCENE, WIDTHS)
        torch.manual_seed(0)
        without = SageCC(fused_settings(fusion), VOCABULARY, SCENE, replace(WIDTHS, motion=5))
        loss = caption_loss(
            model.decode(model.encode(scenes, with_grids()), captions(3, 6), torch.arange(3)), captions(3, 6)
        )
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.descriptors.named_parameters()}
    assert len(gradients) == 4 and all(grad is not None and grad.any() for grad in gradients.values())
    for part in ("scene", "decoder"):
        pairs = zip(getattr(model, part).parameters(), getattr(without, part).parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_without_motion_there_is_no_head() -> None:
    settings = fused_settings("paper", evidence={"descriptor_width": 8, "motion": False})
    assert SageCC(settings, VOCABULARY, SCENE, replace(WIDTHS, motion=None)).descriptors is None
