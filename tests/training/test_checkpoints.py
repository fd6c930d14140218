from __future__ import annotations

import json
import resource

import pytest
import torch
from torch import nn

from pipeline.errors import CheckpointError, OutputError
from pipeline.training.checkpoints import Progress, load_state, save_state
from pipeline.weights import load_exactly, load_tensors, save_tensors


def small(width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    model(torch.randn(5, 2, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_training_goes_on_from_a_state_as_if_it_had_not_stopped(tmp_path):
    model = small()
    model[0].bias.requires_grad_(False)  # an index of the optimizer is not an index of the model
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for seed in range(3):
        step(model, optimizer, seed)
    progress = Progress(epoch=2, step=1, loss=0.1 + 0.2, history=[{"epoch": 1, "loss": 0.5}], best=0.25, best_epoch=1)
    best = {"0.weight": torch.ones(2)}
    save_state(tmp_path / "state.safetensors", progress, model, optimizer, best, {"0.bias": torch.zeros(2)})

    other = small()
    other[0].bias.requires_grad_(False)
    resumed = torch.optim.Adam([p for p in other.parameters() if p.requires_grad], lr=0.1)
    found, kept, average = load_state(tmp_path / "state.safetensors", other, resumed)
    assert found == progress
    assert kept.keys() == {"0.weight"} and torch.equal(kept["0.weight"], torch.ones(2))
    assert average.keys() == {"0.bias"} and torch.equal(average["0.bias"], torch.zeros(2))
    for seed in range(3, 5):
        step(model, optimizer, seed)
        step(other, resumed, seed)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_same_tensors_same_bytes(tmp_path):
    tensors = {"b": torch.arange(4.0), "a": torch.eye(3)}
    first = save_tensors(tmp_path / "first", tensors, {"x": 1, "y": [2.5, None]}).read_bytes()
    second = save_tensors(tmp_path / "second", dict(reversed(tensors.items())), {"x": 1, "y": [2.5, None]}).read_bytes()
    assert first == second
    loaded, about = load_tensors(tmp_path / "first")
    assert torch.equal(loaded["a"], torch.eye(3)) and about == {"x": 1, "y": [2.5, None]}


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    path = save_tensors(tmp_path / "weights.safetensors", {"a": torch.eye(3)})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutputError, match="cannot write") as caught:
            save_tensors(path, {"a": torch.zeros(100, 100)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.where == str(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name] and path.read_bytes() == before


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"\x80\x04K\x01."])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = save_tensors(tmp_path / "weights.safetensors", {"a": torch.eye(3)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tensors(path)
    with pytest.raises(CheckpointError, match="not there"):
        load_tensors(tmp_path / "absent.safetensors")


def test_weights_of_another_model_are_refused(tmp_path):
    weights = small().state_dict()
    for other in (
        small(4).state_dict(),
        {name: value for name, value in weights.items() if name != "2.bias"},
        {**weights, "extra": torch.zeros(1)},
        {name: value.double() for name, value in weights.items()},
    ):
        with pytest.raises(CheckpointError, match="are not this model's"):
            load_exactly(small(), other, kind="this model's", path=tmp_path / "weights.safetensors", same_types=True)


def test_a_state_of_another_version_is_refused(tmp_path):
    model = small()
    optimizer = torch.optim.Adam(model.parameters())
    path = tmp_path / "state.safetensors"
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    save_tensors(path, tensors, {"epoch": 1, "colour": "red"})
    with pytest.raises(CheckpointError, match="another version") as caught:
        load_state(path, model, optimizer)
    assert str(path) in caught.value.fix
    assert json.loads(json.dumps(Progress().__dict__))  # all of it is plain JSON
