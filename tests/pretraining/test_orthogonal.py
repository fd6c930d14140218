from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.pretraining.orthogonal import OrthogonalAdamW, orthogonalised
from pipeline.training.state import Progress, load_state, save_state


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


def build(model: nn.Sequential) -> OrthogonalAdamW:
    return OrthogonalAdamW(model.parameters(), [model[0].weight], ratio=10.0, lr=1e-3, weight_decay=0.01)


def steps(model: nn.Sequential, optimizer: torch.optim.Optimizer, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        x = torch.randn((8, 6), generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("shape", [(16, 64), (96, 32), (24, 24)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.diagonal(u.T @ orthogonalised(matrix) @ v.T)
    # Those near zero, of which a square matrix has some, are not lifted all the way.
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_other_parameters_move_as_with_adamw() -> None:
    ours, plain = layers(), layers()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.01)
    steps(ours, build(ours), 1)
    steps(plain, optimizer, 1)
    assert torch.equal(ours[2].weight, plain[2].weight)
    assert torch.equal(ours[0].bias, plain[0].bias)
    assert not torch.equal(ours[0].weight, plain[0].weight)


def test_a_step_of_a_matrix_has_the_length_of_its_rate() -> None:
    model = layers()
    before = model[0].weight.detach().clone()
    steps(model, build(model), 1)
    moved = model[0].weight.detach() - before * (1 - 1e-2 * 0.01)
    # 10 × 1e-3, times √2 for a matrix twice as tall as wide.
    assert torch.linalg.svdvals(moved).max().item() == pytest.approx(1e-2 * 2**0.5, rel=0.25)


def test_it_goes_on_from_a_saved_state(tmp_path: Path) -> None:
    whole = layers()
    steps(whole, build(whole), 4)
    half = layers()
    optimizer = build(half)
    steps(half, optimizer, 2)
    save_state(tmp_path / "state.safetensors", Progress(epoch=1), half, optimizer, {})
    resumed = layers()
    optimizer = build(resumed)
    load_state(tmp_path / "state.safetensors", resumed, optimizer)
    steps(resumed, optimizer, 2, start=2)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_closures_are_refused() -> None:
    with pytest.raises(ValueError, match="closure"):
        build(layers()).step(lambda: 0.0)
