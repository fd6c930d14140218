from __future__ import annotations

import math

import pytest
import torch

from pipeline.captioners.positions import point_waves


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
