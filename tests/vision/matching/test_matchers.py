from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.vision.matching.lightglue import LightGlue
from pipeline.vision.matching.matcher import LearnedMatcher, Matcher
from pipeline.vision.matching.nearest import NearestMatcher
from pipeline.vision.matching.pairs import RegionPairs, collate
from pipeline.vision.matching.superglue import SuperGlue
from tests.vision.matching.region_data import LIGHTGLUE, METHODS, SUPERGLUE, WIDTH, random_pairs, random_regions, shake

COUNTS = [(5, 7), (1, 1), (0, 4), (3, 0), (0, 0), (9, 2)]


@pytest.fixture(params=METHODS)
def matcher(request: pytest.FixtureRequest) -> Matcher:
    if request.param == "superglue":
        return shake(SuperGlue(SUPERGLUE, WIDTH)).eval()
    if request.param == "lightglue":
        return shake(LightGlue(LIGHTGLUE, WIDTH)).eval()
    return NearestMatcher().eval()


@torch.inference_mode()
def test_batched_equals_one_by_one(matcher: Matcher) -> None:
    pairs = random_pairs(COUNTS)
    batch = matcher(collate(pairs, 12))
    assert batch.shape == (len(pairs), 12, 12)
    assert ((batch >= 0) & (batch <= 1)).all()
    for table, (before, after) in zip(batch, pairs, strict=True):
        alone = matcher(collate([(before, after)], max(len(before), len(after), 1)))[0]
        inside = table[: len(before), : len(after)]
        torch.testing.assert_close(inside, alone[: len(before), : len(after)], rtol=0, atol=1e-5)
        assert table.count_nonzero() == inside.count_nonzero()


@torch.inference_mode()
def test_what_lies_in_the_padding_changes_nothing(matcher: Matcher) -> None:
    batch = collate(random_pairs(COUNTS), 10)
    spoilt = RegionPairs(*(tensor.clone() for tensor in vars(batch).values()))
    for name in ("centroids", "boxes", "descriptors", "scores"):
        getattr(spoilt, name)[~spoilt.valid] = 1e4
    assert torch.equal(matcher(batch), matcher(spoilt))


@torch.inference_mode()
def test_the_order_of_regions_goes_through(matcher: Matcher) -> None:
    batch = collate(random_pairs([(8, 8), (8, 8)]), 8)
    orders = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    turned = RegionPairs(
        *(
            tensor if name == "sizes" else torch.stack([tensor[:, date, orders[date]] for date in (0, 1)], dim=1)
            for name, tensor in vars(batch).items()
        )
    )
    expected = matcher(batch)[:, orders[0]][:, :, orders[1]]
    torch.testing.assert_close(matcher(turned), expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_dates_are_treated_alike(matcher: Matcher) -> None:
    batch = collate(random_pairs([(6, 4)]), 6)
    turned = RegionPairs(*(tensor.flip(1) for tensor in vars(batch).values()))
    # The last of Sinkhorn's steps is one of columns, so rows keep a rest that fades with the iterations.
    torch.testing.assert_close(matcher(turned), matcher(batch).transpose(1, 2), rtol=0, atol=5e-2)


def test_a_learned_assignment_adds_up(matcher: Matcher) -> None:
    if not isinstance(matcher, LearnedMatcher):
        pytest.skip("nearest has no dustbins")
    batch = collate(random_pairs(COUNTS), 10)
    table = matcher.log_assignment(batch)
    assert table.shape == (len(COUNTS), 11, 11)
    assert (table.exp()[:, :-1].sum(2)[batch.valid[:, 0]] <= 1.05).all()
    terms = table[:, :-1, -1][batch.valid[:, 0]].sum() + table[:, -1, :-1][batch.valid[:, 1]].sum()
    terms.backward()
    for name, parameter in matcher.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name


def test_nearest_against_a_plain_loop() -> None:
    ((before, after),) = random_pairs([(7, 9)], seed=4)
    table = NearestMatcher()(collate([(before, after)], 11))[0]
    vectors = [regions.descriptors.astype(np.float64) for regions in (before, after)]
    cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in vectors[1]] for a in vectors[0]])
    for row in range(7):
        for column in range(9):
            mutual = cosine[row].argmax() == column and cosine[:, column].argmax() == row
            expected = max(cosine[row, column], 0.0) if mutual else 0.0
            assert table[row, column] == pytest.approx(expected, abs=1e-5)


def test_regions_are_put_where_they_belong() -> None:
    rng = np.random.default_rng(0)
    one, three = random_regions(rng, 1, size=(50, 100)), random_regions(rng, 3, size=(100, 60))
    batch = collate([(one, three)], 4)
    assert batch.valid.tolist() == [[[True, False, False, False], [True, True, True, False]]]
    x, y = one.centroids[0].tolist()
    assert batch.normalised_centroids[0, 0, 0].tolist() == pytest.approx([(x - 50) / 70, (y - 25) / 70], abs=1e-6)
    left, top, right, bottom = three.boxes[2].tolist()
    extent = [(right - left) / 70, (bottom - top) / 70]
    assert batch.normalised_extents[0, 1, 2].tolist() == pytest.approx(extent, abs=1e-6)


def test_more_regions_than_the_batch_is_long_are_refused() -> None:
    with pytest.raises(ValueError, match="5 regions in a batch padded to 4"):
        collate(random_pairs([(5, 1)]), 4)
