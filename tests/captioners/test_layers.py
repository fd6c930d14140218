from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.captioners.layers import SetPooling, point_waves, sinusoid
from tests.captioners import plain

KINDS = ["mean", "attention"]


def pooling(kind: str, empty: str = "learned") -> SetPooling:
    module = SetPooling(4, kind, empty)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    return module


def members() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[True, True, False], [False, False, False], [True, True, True], [False, False, True]])
    return torch.randn(4, 3, 4, generator=generator), mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", ["learned", "zero"])
def test_pooling_is_its_formula(kind, empty):
    module = pooling(kind, empty)
    x, mask = members()
    pooled, shares = module(x, mask)
    for row in range(4):
        rows = [plain.array(x[row, i]) for i in range(3) if mask[row, i]]
        weights = np.full(len(rows), 1 / max(len(rows), 1))
        if not rows:
            expected = np.zeros(4) if empty == "zero" else plain.array(module.empty)
        elif kind == "mean":
            expected = sum(rows) / len(rows)
        else:
            weights = plain.softmax(np.array([plain.array(module.query) @ member / 2 for member in rows]))
            expected = sum(weight * member for weight, member in zip(weights, rows, strict=True))
        np.testing.assert_allclose(plain.array(pooled[row]), expected, atol=1e-6)
        np.testing.assert_allclose(plain.array(shares[row][mask[row]]), weights, atol=1e-6)
        assert not shares[row][~mask[row]].any()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_may_hold_anything(kind):
    module = pooling(kind)
    x, mask = members()
    garbage = x.masked_fill(~mask.unsqueeze(-1), torch.nan).requires_grad_()
    torch.testing.assert_close(module(garbage, mask), module(x, mask))
    module(garbage, mask)[0].sum().backward()
    assert garbage.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_sets_of_nothing(kind):
    module = pooling(kind)
    pooled, shares = module(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool))
    torch.testing.assert_close(pooled, module.empty.expand(2, 4))
    assert shares.shape == (2, 0)


def test_attention_starts_as_the_mean():
    x, mask = members()
    torch.testing.assert_close(SetPooling(4, "attention", "zero")(x, mask), SetPooling(4, "mean", "zero")(x, mask))


def test_half_precision_members_are_pooled_in_full():
    x, mask = members()
    assert pooling("attention")(x.bfloat16(), mask)[0].dtype == torch.float32


def test_waves_are_their_formula():
    points = torch.tensor([[0.1, 0.7], [1.0, 0.0]])
    waves = point_waves(points, 12, 16)
    assert waves.shape == (2, 12)
    for row, (x, y) in enumerate(points.tolist()):
        rates = [math.pi * 16 ** (k / 2) for k in range(3)]
        expected = [wave(rate * c) for c in (x, y) for wave in (math.sin, math.cos) for rate in rates]
        assert waves[row].tolist() == pytest.approx(expected, abs=1e-5)


def test_one_wave_is_enough():
    assert point_waves(torch.zeros(2, 3, 2), 4, 64).tolist() == [[[0.0, 1.0, 0.0, 1.0]] * 3] * 2


def test_points_are_told_apart_everywhere():
    """Wherever a point lies, one an eighth of the shortest half period away has another encoding."""
    x = torch.linspace(0, 1, 513)
    waves = point_waves(torch.stack([x, torch.zeros_like(x)], dim=-1), 64, 64)
    distances = torch.cdist(waves, waves) + torch.eye(513) * 9
    assert distances.min() > 0.1


@pytest.mark.parametrize("width", [8, 18, 256])
def test_the_waves_of_a_place_do_not_depend_on_how_many_places_there_are(width):
    whole = sinusoid(41, width)
    assert all(torch.equal(whole[place], sinusoid(place + 1, width)[place]) for place in range(41))
