from __future__ import annotations

import numpy as np
import pytest

from pipeline.vision.matching.examples.layers import Layer, counterparts, edited
from tests.vision.matching.examples.pictures import UNTOUCHED, picture


def layer(regions: int = 6) -> Layer:
    source = picture(np.random.default_rng(0), regions=regions)
    return Layer(source.masks, tuple(frozenset([number]) for number in range(regions)), source.scores)


def test_untouched_regions_are_their_own_counterparts() -> None:
    one = layer()
    same = edited(one, UNTOUCHED, np.random.default_rng(0))
    assert np.array_equal(same.masks, one.masks)
    assert counterparts(one, same, 0.5).tolist() == list(range(6))


def test_dropped_regions_have_no_counterpart() -> None:
    one = layer()
    fewer = one.take(np.array([4, 1]))
    assert counterparts(one, fewer, 0.5).tolist() == [-1, 1, -1, -1, 0, -1]
    assert counterparts(fewer, one, 0.5).tolist() == [4, 1]
    assert len(edited(one, UNTOUCHED.model_copy(update={"drop": 1.0}), np.random.default_rng(0))) == 0
    assert counterparts(one, one.take(np.array([], dtype=int)), 0.5).tolist() == [-1] * 6
    assert counterparts(one.take(np.array([], dtype=int)), one, 0.5).tolist() == []


def test_a_split_keeps_every_pixel_and_the_larger_part_keeps_the_counterpart() -> None:
    one = layer(1)
    for seed in range(20):
        parts = edited(one, UNTOUCHED.model_copy(update={"split": 1.0}), np.random.default_rng(seed))
        assert np.array_equal(parts.masks.sum(0), one.masks[0].astype(int))
        assert set(parts.origins) == {frozenset([0])}
        shares = parts.masks.sum((1, 2)) / one.masks.sum()
        assert shares[0] == shares.max()
        assert counterparts(one, parts, 0.5).tolist() == [0 if shares[0] >= 0.5 else -1]


def test_a_merge_joins_neighbours_and_what_they_are_made_of() -> None:
    one = layer(2)
    joined = edited(one, UNTOUCHED.model_copy(update={"merge": 1.0}), np.random.default_rng(0))
    assert len(joined) == 1
    assert joined.origins == (frozenset([0, 1]),)
    assert np.array_equal(joined.masks[0], one.masks.any(0))
    areas = one.masks.sum((1, 2))
    found = counterparts(one, joined, 0.5).tolist()
    for number in (0, 1):
        expected = areas[number] / areas.sum() >= 0.5 and areas[number] == areas.max()
        assert (found[number] == 0) == expected


def test_another_thing_in_the_same_place_is_no_counterpart() -> None:
    one = layer()
    other = Layer(one.masks, tuple(frozenset([number + 10]) for number in range(6)), one.scores)
    assert counterparts(one, other, 0.5).tolist() == [-1] * 6


def test_what_is_covered_is_gone_if_too_little_is_left() -> None:
    one = layer(1)
    y, x = np.nonzero(one.masks[0])
    cover = np.zeros_like(one.masks[0])
    cover[:, : x.min() + 2] = True
    left = one.covered_by(cover, 0.5)
    assert not (left.masks[0] & cover).any()
    cover[:, : x.max()] = True
    assert len(one.covered_by(cover, 0.5)) == 0
    with pytest.raises(IndexError):
        one.take(np.array([3]))
    assert y.size
