from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import CheckpointError, DataError
from pipeline.files import sha256_file
from pipeline.training.checkpoints import Progress, load_state, save_state
from pipeline.training.pretraining import (
    OrthogonalAdamW,
    begin_with,
    one_cycle,
    orthogonalised,
    pretrain,
    state_key,
    write_mini,
)
from pipeline.training.settings import PretrainSchedule


def test_a_training_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    path = write_mini(tmp_path / "mini.safetensors", first, PretrainSchedule(), [])
    digest = begin_with(second, str(path), kind="a line")
    assert digest == sha256_file(path)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor.half().float(), rtol=0, atol=0)


def test_without_weights_nothing_changes() -> None:
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    assert begin_with(module, None, kind="a line") is None
    assert torch.equal(module.weight, before)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = write_mini(tmp_path / "mini.safetensors", nn.Linear(4, 2), PretrainSchedule(), [])
    with pytest.raises(CheckpointError, match="not a line"):
        begin_with(nn.Linear(3, 2), str(path), kind="a line")
    with pytest.raises(CheckpointError, match="not there"):
        begin_with(nn.Linear(3, 2), str(tmp_path / "absent.safetensors"), kind="a line")


def test_the_state_belongs_to_settings_and_weights(tmp_path: Path) -> None:
    path = write_mini(tmp_path / "mini.safetensors", nn.Linear(3, 2), PretrainSchedule(), [])
    plain = PretrainSchedule()
    further = plain.model_copy(update={"start": str(path)})
    keys = [state_key(plain), state_key(plain.model_copy(update={"epochs": 3})), state_key(further)]
    write_mini(path, nn.Linear(3, 2), PretrainSchedule(), [])
    keys.append(state_key(further))
    assert len(set(keys)) == len(keys)
    path.unlink()
    with pytest.raises(CheckpointError, match="not there"):
        state_key(further)


def test_what_ships_names_the_weights_that_it_began_with_and_not_where_they_lay(tmp_path: Path) -> None:
    schedule = PretrainSchedule(start=str(tmp_path / "first.safetensors"))
    path = write_mini(tmp_path / "mini.safetensors", nn.Linear(3, 2), schedule, [], begun_with="0f")
    text = path.with_suffix(".json").read_text(encoding="utf-8")
    assert json.loads(text)["settings"]["start"] == {"file": "first.safetensors", "sha256": "0f"}
    assert str(tmp_path) not in text


def test_fewer_examples_than_a_batch_are_no_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer training examples than a batch of 12"):
        pretrain(
            "a line",
            nn.Linear(3, 2),
            PretrainSchedule(),
            steps=0,
            batches=lambda epoch: (),
            losses=lambda batch: {},
            validate=dict,
            work=tmp_path,
        )
    assert not list(tmp_path.iterdir())


def test_losses_are_recorded_as_the_mean_of_their_values_in_double_precision(tmp_path: Path) -> None:
    model, values = nn.Linear(3, 1), list[float]()

    def losses(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = model(batch).square().mean()
        values.append(loss.item())
        return {"fit": loss}

    data = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    schedule = PretrainSchedule(epochs=1, batch_size=2)
    history = pretrain(
        "test", model, schedule, steps=7, batches=lambda epoch: data, losses=losses, validate=dict, work=tmp_path
    )
    total = 0.0
    for value in values:
        total += value
    assert history[0]["loss_fit"] == total / 7


def test_one_cycle_rises_and_falls() -> None:
    rates = [one_cycle(step / 100) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0)


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
