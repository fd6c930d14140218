from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from pipeline.errors import ServiceError
from pipeline.runtime import deterministic, resolve_device

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A GPU that is not there: the settings of a computation on it can be looked at, nothing can be computed."""
    monkeypatch.delenv(CUBLAS, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    yield torch.device("cuda")
    os.environ.pop(CUBLAS, None)


def flags() -> dict[str, object]:
    return {
        "on": torch.are_deterministic_algorithms_enabled(),
        "warn": torch.is_deterministic_algorithms_warn_only_enabled(),
        "tuned": torch.backends.cudnn.benchmark,
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "cudnn": torch.backends.cuda.cudnn_sdp_enabled(),
        "efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "plain": torch.backends.cuda.math_sdp_enabled(),
    }


def test_on_a_gpu_what_is_not_deterministic_is_an_error_and_attention_has_kernels_that_are(gpu: torch.device) -> None:
    before = flags()
    with deterministic(gpu):
        within = flags()
    assert within["on"] and not within["warn"] and not within["tuned"]
    assert not within["flash"] and not within["cudnn"] and within["efficient"] and within["plain"]
    assert flags() == before
    assert os.environ[CUBLAS] == ":4096:8"


def test_models_that_cannot_be_deterministic_on_a_gpu_are_warned_about(gpu: torch.device) -> None:
    with deterministic(gpu, strict=False):
        assert flags()["on"] and flags()["warn"]
    # On a CPU they are like all others.
    with deterministic(torch.device("cpu"), strict=False):
        assert flags()["on"] and not flags()["warn"] and flags()["flash"]


def test_a_cublas_that_is_not_deterministic_is_refused(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS, ":0:0")
    with pytest.raises(ServiceError, match=f"{CUBLAS}=:0:0") as caught, deterministic(gpu):
        pass
    assert "unset" in str(caught.value.fix)
    monkeypatch.setenv(CUBLAS, ":16:8")
    with deterministic(gpu):
        assert os.environ[CUBLAS] == ":16:8"
    with deterministic(torch.device("cpu")):
        pass


def test_cublas_is_fixed_as_soon_as_a_gpu_is_chosen(gpu: torch.device) -> None:
    assert resolve_device("cpu").type == "cpu" and CUBLAS not in os.environ
    assert resolve_device("auto") == gpu and os.environ[CUBLAS] == ":4096:8"


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(ServiceError, match="no usable GPU"):
        resolve_device("cuda")
