from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import CheckpointError, DataError
from pipeline.files import sha256_file
from pipeline.pretraining.loop import begin_with, one_cycle, pretrain, state_key, write_mini
from pipeline.pretraining.settings import PretrainSchedule


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


def test_one_cycle_rises_and_falls() -> None:
    rates = [one_cycle(step / 100) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0)
