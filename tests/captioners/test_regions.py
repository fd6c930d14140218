from __future__ import annotations

import pytest
import torch

from pipeline.captioners.regions import Regions
from pipeline.errors import DataError
from tests.captioners.fused import make_regions, padded_further


def test_padding_keeps_every_region_in_its_place():
    rows = [torch.randn(count, 3) for count in (2, 0, 4)]
    regions = Regions.padded(rows, dates=[torch.ones(len(x), dtype=torch.long) for x in rows])
    assert regions.features.shape == (3, 4, 3)
    assert regions.mask.sum(1).tolist() == [2, 0, 4]
    for pair, expected in enumerate(rows):
        assert torch.equal(regions.features[pair][regions.mask[pair]], expected)
        assert regions.dates[pair][regions.mask[pair]].tolist() == [1] * len(expected)


def test_no_regions_at_all():
    regions = Regions.padded([torch.zeros(0, 3), torch.zeros(0, 3)])
    assert regions.features.shape == (2, 0, 3)
    assert regions.mask.shape == (2, 0)
    assert regions.select(torch.tensor([1, 1, 0])).features.shape == (3, 0, 3)
    regions.check_values("motion")


@pytest.mark.parametrize("field", ["dates", "centroids", "scores", "rows"])
def test_fields_of_other_regions_are_refused(field):
    features = [torch.zeros(2, 3), torch.zeros(4, 3)]
    with pytest.raises(DataError, match=f"`{field}` are not of as many regions"):
        Regions.padded(features, **{field: [torch.zeros(4, 2), torch.zeros(2, 2)]})
    with pytest.raises(DataError, match=f"`{field}` are not of as many regions"):
        Regions.padded(features, **{field: [torch.zeros(2, 2)]})


def test_select_takes_all_fields_along():
    regions = make_regions((2, 0, 4), 3, seed=0)
    rows = torch.tensor([2, 0, 2])
    chosen = regions.select(rows)
    for name in ("features", "mask", "dates", "centroids", "scores", "rows"):
        assert torch.equal(getattr(chosen, name), getattr(regions, name)[rows])
    assert len(chosen) == 3
    assert torch.equal(chosen.to(torch.device("cpu")).features, chosen.features)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.zeros(2, 3)}, "features.*must be .pairs, regions, width. of floats, not .2, 3."),
        ({"features": torch.zeros(2, 3, 4, dtype=torch.long)}, "of int64"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, "mask.*.2, 3. of booleans, not .2, 4."),
        ({"mask": torch.ones(2, 3)}, "mask.*not .2, 3. of float32"),
        ({"dates": torch.zeros(2, 3)}, "dates.*of int64, not"),
        ({"centroids": torch.zeros(2, 3)}, "centroids.*.2, 3, 2. of floats"),
        ({"scores": torch.zeros(2, 1)}, "scores.*.2, 3. of floats"),
        ({"rows": torch.zeros(2, 3)}, "rows.*of int64, not"),
    ],
)
def test_fields_that_do_not_belong_together_are_refused(changes, message):
    fields = {"features": torch.zeros(2, 3, 4), "mask": torch.ones(2, 3, dtype=torch.bool), **changes}
    with pytest.raises(DataError, match=message):
        Regions(**fields)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("features", torch.nan, "region 3 of pair 2 .* features that are not finite numbers"),
        ("centroids", 1.5, "region 3 of pair 2 .* centroids that are not shares of the image"),
        ("centroids", torch.nan, "centroids"),
        ("scores", torch.inf, "scores that are not finite"),
        ("dates", 2, "dates that are not 0 or 1"),
    ],
)
def test_values_that_cannot_be_are_named(field, value, message):
    regions = make_regions((2, 0, 4), 3, seed=0)
    regions.check_values("motion")
    getattr(regions, field)[2, 3] = value
    with pytest.raises(DataError, match=message) as caught:
        regions.check_values("motion")
    assert caught.value.where == f"motion.{field}"
    getattr(regions, field)[2, 3] = 0


def test_padding_may_hold_anything():
    padded_further(make_regions((2, 0, 4), 3, seed=0), 2).check_values("motion")


def test_thinning_leaves_out_about_the_share_and_nothing_else():
    regions = make_regions((40, 0, 60), 3, seed=0)
    torch.manual_seed(0)
    thin = regions.thinned(0.25)
    assert 55 < int(thin.mask.sum()) < 95
    assert not (thin.mask & ~regions.mask).any()
    assert torch.equal(thin.features, regions.features)
    assert torch.equal(regions.thinned(0.0).mask, regions.mask)
