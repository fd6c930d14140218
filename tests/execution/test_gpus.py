"""Workers of the local engine on machines with GPUs, of which the tests' machine has none: PyTorch's counts are set."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from pipeline.execution import engines
from tests.execution.workers import engine

UUIDS = "GPU-5ebe9f43-ac33, GPU-d1a2b3c4-0001 ,GPU-77777777-0002"
MIG = "MIG-1f0a,MIG-2f0b,MIG-3f0c"
VISIBLE = "CUDA_VISIBLE_DEVICES"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str | None], None]:
    def with_gpus(count: int, visible: str | None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
        if visible is None:
            monkeypatch.delenv(VISIBLE, raising=False)
        else:
            monkeypatch.setenv(VISIBLE, visible)

    return with_gpus


@pytest.mark.parametrize(
    ("gpus", "visible", "names"),
    [
        (1, None, ["0"]),
        (4, None, ["0", "1", "2", "3"]),
        (2, "5,2", ["5", "2"]),
        # CUDA stops at the first that is not there.
        (1, "3,-1,4", ["3"]),
        (3, UUIDS, ["GPU-5ebe9f43-ac33", "GPU-d1a2b3c4-0001", "GPU-77777777-0002"]),
        # One process counts one MIG instance.
        (1, MIG, MIG.split(",")),
    ],
)
def test_there_is_one_worker_per_gpu_and_each_sees_its_own(
    machine: Callable[..., None], gpus: int, visible: str | None, names: list[str]
) -> None:
    machine(gpus, visible)
    for device in ("auto", "cuda"):
        environments = engines._environments(engine("local", workers=0, device=device), 1000)
        assert environments == [{VISIBLE: name} for name in names]


def test_fewer_items_or_workers_than_gpus(machine: Callable[..., None]) -> None:
    machine(4, None)
    assert engines._environments(engine("local", workers=0, device="auto"), 1) == [{VISIBLE: "0"}]
    assert engines._environments(engine("local", workers=2, device="auto"), 9) == [{VISIBLE: "0"}, {VISIBLE: "1"}]


def test_more_workers_than_gpus_share_them_and_it_is_said(
    machine: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(2, None)
    environments = engines._environments(engine("local", workers=5, device="auto"), 9)
    assert [environment[VISIBLE] for environment in environments] == ["0", "1", "0", "1", "0"]
    assert "5 workers share 2 GPUs" in capsys.readouterr().err


def test_without_a_gpu_or_on_the_cpu_there_is_one_worker_per_core(machine: Callable[..., None]) -> None:
    for gpus, device in ((0, "auto"), (2, "cpu")):
        machine(gpus, None)
        assert engines._environments(engine("local", workers=0, device=device), 1000) == [{}] * 64
        assert engines._environments(engine("local", workers=3, device=device), 1000) == [{}] * 3


def test_each_worker_process_has_its_gpu_in_its_environment() -> None:
    from distributed import Client

    names = ["MIG-1f0a", "GPU-d1a2b3c4-0001"]
    with engines._local_cluster([{VISIBLE: name} for name in names]) as cluster, Client(cluster) as client:
        assert sorted(client.run(os.getenv, VISIBLE).values()) == sorted(names)
        assert list(client.nthreads().values()) == [1, 1]
    assert os.environ.get(VISIBLE) not in names
