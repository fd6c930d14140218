from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.captioners.positions import point_waves
from pipeline.captioners.region_tokens import RegionTokens, keep_best
from tests.captioners import plain
from tests.captioners.fused import make_regions, padded_further
from tests.captioners.small import stir


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
    kept = keep_best(regions, count)
    assert kept.features.shape == (3, min(count, 7), 5)
    for pair in range(3):
        there = [i for i in range(7) if regions.mask[pair, i]]
        best = sorted(there, key=lambda i: -regions.scores[pair, i].item())[:count]
        chosen = kept.mask[pair]
        assert chosen.sum() == len(best)
        for name in ("features", "dates", "centroids", "scores"):
            assert torch.equal(getattr(kept, name)[pair][chosen], getattr(regions, name)[pair][best]), name


def test_equal_scores_keep_the_earlier_and_no_count_keeps_all():
    regions = make_regions((4,), 5, seed=0)
    level = type(regions)(regions.features, regions.mask, scores=torch.zeros(1, 4))
    assert torch.equal(keep_best(level, 2).features, regions.features[:, :2])
    assert keep_best(regions, None) is regions
    nothing = make_regions((0, 0), 5, seed=0)
    assert keep_best(nothing, 3).features.shape == (2, 0, 5)
