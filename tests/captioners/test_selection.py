from __future__ import annotations

import torch

from pipeline.captioners.selection import ranked_top


def test_values_and_places_of_a_stable_sort():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-4, 4, (50, 40), generator=generator) / 3  # many ties
    values[:, ::7] = -torch.inf
    expected = values.sort(dim=1, descending=True, stable=True)
    found, places = ranked_top(values, 25)
    assert torch.equal(found, expected.values[:, :25])
    assert torch.equal(places, expected.indices[:, :25])


def test_extremes_and_signed_zeros():
    values = torch.tensor([[-0.0, 0.0, torch.inf, -1e-38, 1e-38, -torch.inf, -3e38, 3e38]])
    _, places = ranked_top(values, 8)
    assert places.tolist() == [[2, 7, 4, 0, 1, 3, 6, 5]]
