"""Same seed, same weights: how torch is set up while a model is trained or asked.

Where tensors live.

Computing on one thread: the order of additions, and with it the last digit, then depends on no machine's cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.utils.deterministic

from pipeline.errors import ServiceError


def resolve_device(choice: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Turn the setting `engine.device` into a device; `auto` takes a GPU when there is one.

    Raises:
        ServiceError: A GPU is asked for and none is usable.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise ServiceError("no usable GPU", where="engine.device", fix="set engine.device to auto or cpu")
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(choice)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one CPU thread within, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_filling: Any = torch.utils.deterministic
"""Has its switch from a class that the module takes on as it is imported, which type checkers do not see."""


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Compute reproducibly within, and leave torch's global state as it was.

    On a CPU an operation without a reproducible form is an error. On a GPU it is a warning: a few backward passes
    of attention have none.
    """
    # Read by cuBLAS when its first handle is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    enabled = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = _filling.fill_uninitialized_memory
    tuned = torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
            # Nothing here reads memory that it has not written; filling it costs time in every step.
            _filling.fill_uninitialized_memory = False
            torch.backends.cudnn.benchmark = False
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=only_warned)
            _filling.fill_uninitialized_memory = filled
            torch.backends.cudnn.benchmark = tuned
