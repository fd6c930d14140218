from __future__ import annotations

import os
import signal

import pytest
import torch

from pipeline.errors import ResourceError, SageccError, ServiceError
from pipeline.training.distributed import (
    DivergedError,
    Interrupted,
    InterruptFlag,
    SingleProcess,
    count_devices,
    launch,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("setting", "kind", "count"),
    [("auto", "cpu", 1), (3, "cpu", 3), ("auto", "cuda", 4), (2, "cuda", 2), (4, "cuda", 4)],
)
def test_devices_are_counted(monkeypatch, setting, kind, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert count_devices(setting, torch.device(kind)) == count


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ServiceError, match="5 GPUs are asked for and there are 4") as caught:
        count_devices(5, torch.device("cuda"))
    assert caught.value.where == "train.devices" and "auto" in caught.value.fix


def test_an_interrupt_sets_the_flag_and_the_second_one_ends_the_run():
    before = signal.getsignal(signal.SIGINT)
    with InterruptFlag() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_one_device_works_in_this_process():
    ranks = launch(lambda ranks: ranks, CPU, 1)
    assert isinstance(ranks, SingleProcess) and (ranks.rank, ranks.world, ranks.device) == (0, 1, CPU)
    model = torch.nn.Linear(2, 1)
    assert ranks.join(model, torch.optim.Adam(model.parameters())) is model
    ranks.backward(model(torch.ones(3, 2)).sum())
    assert model.weight.grad is not None
    assert ranks.any(True) and not ranks.any(False)


class Sum:
    """Work of several processes: what each of them sees."""

    def __call__(self, ranks: object) -> tuple[int, bool, bool]:
        return ranks.world, ranks.any(ranks.rank == 1), ranks.any(False)  # type: ignore[attr-defined]


class Diverging:
    """Work that fails on the second device."""

    def __call__(self, ranks: object) -> None:
        if ranks.rank == 1:  # type: ignore[attr-defined]
            raise DivergedError("the loss is no number", where="train", fix="lower the rate")


def test_several_processes_agree_on_a_flag():
    assert launch(Sum(), CPU, 2) == (2, True, False)


def test_an_error_of_any_process_is_raised():
    with pytest.raises(DivergedError, match="the loss is no number") as caught:
        launch(Diverging(), CPU, 2)
    assert caught.value.where == "train" and caught.value.fix == "lower the rate"


class Failing:
    """Work on which the machine fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, ranks: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), ResourceError, "^the GPU's memory ran out while training"),
        (MemoryError("3 TiB"), ResourceError, "^memory ran out while training"),
        (RuntimeError("CUDA error: device-side assert triggered"), ServiceError, "the GPU failed while training: CUDA"),
    ],
)
def test_too_little_memory_and_a_failed_gpu_are_told_in_words(
    error: Exception, kind: type[SageccError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        launch(Failing(error), CPU, 1)
    assert caught.value.fix and caught.value.__cause__ is error
    with pytest.raises(ZeroDivisionError):
        launch(Failing(ZeroDivisionError()), CPU, 1)


def test_an_interrupted_run_has_its_own_exit_code():
    assert Interrupted("stopped").exit_code == 130
