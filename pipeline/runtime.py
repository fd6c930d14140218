"""Set-up of torch: device, number of threads, and deterministic computation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.utils.deterministic

from pipeline.errors import ServiceError


def resolve_device(choice: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device of the setting `engine.device`; `auto` takes a GPU if one is usable.

    Raises:
        ServiceError: The setting is `cuda`, and no GPU is usable.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise ServiceError("no usable GPU", where="engine.device", fix="set engine.device to auto or cpu")
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(choice)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one CPU thread within the block, and as many as before afterwards.

    The order of additions, and with it the last digit of a sum, then does not depend on the machine's cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Its attribute `fill_uninitialized_memory` is set up when the module is imported, so that type checkers do not see it.
_torch_deterministic: Any = torch.utils.deterministic


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Let torch compute deterministically within the block, and restore its global state afterwards.

    On a CPU an operation without a deterministic implementation raises an error. On a GPU it warns: a few backward
    passes of attention have none.
    """
    # cuBLAS reads it when its first handle is created.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    enabled = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = _torch_deterministic.fill_uninitialized_memory
    tuned = torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
            # No code here reads memory that it has not written; filling it costs time in every step.
            _torch_deterministic.fill_uninitialized_memory = False
            torch.backends.cudnn.benchmark = False
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=only_warned)
            _torch_deterministic.fill_uninitialized_memory = filled
            torch.backends.cudnn.benchmark = tuned
