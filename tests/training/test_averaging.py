from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.training.averaging import WeightAverage


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_the_average_against_a_plain_loop() -> None:
    average, expected = WeightAverage(0.5), None
    for step in range(12):
        now = model(step)
        now[1].num_batches_tracked.fill_(step)
        average.update(now, step)
        weight = now[0].weight.detach().clone()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
    torch.testing.assert_close(average.values["0.weight"], expected)
    assert int(average.values["1.num_batches_tracked"]) == 11


def test_a_model_has_its_own_weights_again() -> None:
    average, trained = WeightAverage(0.9), model(1)
    average.update(model(0), 0)
    own = trained[0].weight.detach().clone()
    with pytest.raises(KeyError), average.applied_to(trained):
        assert torch.equal(trained[0].weight, average.values["0.weight"])
        raise KeyError
    assert torch.equal(trained[0].weight, own)


def test_no_decay_is_no_average() -> None:
    average, trained = WeightAverage(0.0), model(1)
    average.update(trained, 0)
    own = trained[0].weight.detach().clone()
    with average.applied_to(trained):
        assert torch.equal(trained[0].weight, own)
    assert not average.values
