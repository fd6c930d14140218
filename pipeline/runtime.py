"""Set-up of torch: device, number of threads, and deterministic computation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final, Literal

import torch
import torch.utils.deterministic
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.errors import ServiceError

_CUBLAS: Final = "CUBLAS_WORKSPACE_CONFIG"
_CUBLAS_FIXED: Final = (":4096:8", ":16:8")
"""Workspaces with which cuBLAS adds up in one order (cuBLAS documentation, section 2.1.4)."""


def resolve_device(choice: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device of the setting `engine.device`; `auto` takes a GPU if one is usable.

    Raises:
        ServiceError: The setting is `cuda`, and no GPU is usable.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise ServiceError("no usable GPU", where="engine.device", fix="set engine.device to auto or cpu")
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    if choice == "cuda":
        # cuBLAS reads it when its first handle is created, which may be long before anything is to be deterministic.
        os.environ.setdefault(_CUBLAS, _CUBLAS_FIXED[0])
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
def deterministic(device: torch.device, *, strict: bool = True) -> Iterator[None]:
    """Let torch compute deterministically within the block, and restore its global state afterwards.

    An operation without a deterministic implementation raises an error. The kernels of attention have deterministic
    backward passes only where errors are asked for: with warnings alone torch takes the others (ATen/native/
    transformers/cuda/attention_backward.cu). Of the kernels for a GPU the memory-efficient and the plain one are used.

    Args:
        device: Where the block computes.
        strict: False: on a GPU, operations without a deterministic implementation compute all the same, with a warning,
            and the same seed gives other weights each time. For models that cannot do without them.

    Raises:
        ServiceError: On a GPU, the environment asks for a cuBLAS that is not deterministic.
    """
    on_gpu = device.type == "cuda"
    if on_gpu and os.environ.setdefault(_CUBLAS, _CUBLAS_FIXED[0]) not in _CUBLAS_FIXED:
        raise ServiceError(
            f"with {_CUBLAS}={os.environ[_CUBLAS]} a GPU's sums differ from run to run",
            where="environment",
            fix=f"unset {_CUBLAS}, or set it to {_CUBLAS_FIXED[0]}",
        )
    enabled = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = _torch_deterministic.fill_uninitialized_memory
    tuned = torch.backends.cudnn.benchmark
    attention = sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]) if on_gpu else nullcontext()
    with torch.random.fork_rng(devices=[device] if on_gpu else []), attention:
        try:
            torch.use_deterministic_algorithms(True, warn_only=on_gpu and not strict)
            # No code here reads memory that it has not written; filling it costs time in every step.
            _torch_deterministic.fill_uninitialized_memory = False
            torch.backends.cudnn.benchmark = False
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=only_warned)
            _torch_deterministic.fill_uninitialized_memory = filled
            torch.backends.cudnn.benchmark = tuned
