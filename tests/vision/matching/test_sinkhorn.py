from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.vision.matching.sinkhorn import NEVER, log_optimal_transport


def plain(scores: NDArray[np.float64], bin_score: float, iterations: int) -> NDArray[np.float64]:
    """Sinkhorn's iterations on probabilities, one row and one column after the other."""
    rows, columns = scores.shape
    table = np.full((rows + 1, columns + 1), np.exp(bin_score))
    table[:rows, :columns] = np.exp(scores)
    row_mass = [1.0] * rows + [float(columns)]
    column_mass = [1.0] * columns + [float(rows)]
    for _ in range(iterations):
        for row in range(rows + 1):
            table[row] *= row_mass[row] / table[row].sum()
        for column in range(columns + 1):
            table[:, column] *= column_mass[column] / table[:, column].sum()
    return table


def full(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.ones(len(scores), length, dtype=torch.bool) for length in scores.shape[1:])


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (7, 2)])
def test_against_a_plain_loop(rows: int, columns: int) -> None:
    scores = np.random.default_rng(0).normal(size=(rows, columns)) * 3
    table = torch.from_numpy(scores).float()[None]
    found = log_optimal_transport(table, torch.tensor(0.7), *full(table), 15)
    np.testing.assert_allclose(found[0].exp().numpy(), plain(scores, 0.7, 15), rtol=1e-5, atol=1e-6)


def test_columns_carry_their_mass_and_rows_come_to_it() -> None:
    table = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1)) * 2
    found = log_optimal_transport(table, torch.tensor(1.0), *full(table), 100).exp()
    torch.testing.assert_close(found.sum(1), torch.tensor([[1.0, 1, 1, 1, 6]]).expand(2, -1))
    torch.testing.assert_close(found.sum(2), torch.tensor([[1.0] * 6 + [4]]).expand(2, -1), rtol=1e-3, atol=1e-3)


def test_scores_of_any_size_stay_finite() -> None:
    table = torch.tensor([[[300.0, -300.0], [-300.0, 300.0]]], requires_grad=True)
    found = log_optimal_transport(table, torch.tensor(1.0), *full(table), 50)
    found.diagonal(dim1=1, dim2=2)[:, :2].sum().backward()
    torch.testing.assert_close(found.exp()[0, :2, :2], torch.eye(2), rtol=0, atol=0.02)
    assert table.grad is not None
    assert table.grad.isfinite().all()


def test_padding_changes_nothing_and_gets_no_gradient() -> None:
    small = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(2))
    large = torch.full((1, 6, 5), 50.0)
    large[:, :3, :2] = small
    large.requires_grad_()
    before, after = (torch.arange(length)[None] < count for length, count in ((6, 3), (5, 2)))
    bin_score = torch.tensor(0.2)
    alone = log_optimal_transport(small, bin_score, *full(small), 30)
    found = log_optimal_transport(large, bin_score, before, after, 30)
    rows, columns = [0, 1, 2, 6], [0, 1, 5]
    torch.testing.assert_close(found[0][rows][:, columns], alone[0], rtol=0, atol=1e-6)
    assert (found[0, 3:6] == NEVER).all()
    found[0][rows][:, columns].sum().backward()
    assert large.grad is not None
    assert large.grad.isfinite().all()
    assert (large.grad[:, 3:] == 0).all()
    assert (large.grad[:, :, 2:] == 0).all()


def test_a_date_without_regions_leaves_the_dustbin() -> None:
    table = torch.zeros(2, 3, 2)
    before = torch.tensor([[True, True, False], [False] * 3])
    after = torch.tensor([[False, False], [True, False]])
    found = log_optimal_transport(table, torch.tensor(1.0), before, after, 10).exp()
    torch.testing.assert_close(found[0, :3, 2], torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(found[1, 3, :2], torch.tensor([1.0, 0.0]))
    assert found[:, :3, :2].sum() == 0
