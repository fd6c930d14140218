"""One arithmetic on all engines: the same number of threads and the same kernels, so the same bits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_THREADS = 1
"""Threads of one worker on the CPU.

PyTorch splits sums among its threads, so their order, and with it the last bits of a result, follows the number of
threads: with one, results are equal on the inline and the local engine and on machines with any number of cores. The
local engine uses the cores by its number of worker processes.
"""


@contextmanager
def fixed_arithmetic() -> Iterator[None]:
    """Compute reproducibly within the block; see `settle`, which must be called again once a worker was built."""
    before = _state()
    try:
        settle()
        yield
    finally:
        _restore(before)


def settle() -> None:
    """Fix PyTorch's threads and kernels, if PyTorch is loaded; stages that do without it never load it here."""
    if "torch" not in sys.modules:
        return
    import torch

    torch.set_num_threads(_THREADS)
    # cuDNN otherwise picks kernels by timing them, and may pick ones that add up in changing order.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _state() -> tuple[int, bool, bool] | None:
    if "torch" not in sys.modules:
        return None
    import torch

    return torch.get_num_threads(), torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def _restore(state: tuple[int, bool, bool] | None) -> None:
    if "torch" not in sys.modules:
        return
    import torch

    if state is None:
        # PyTorch was loaded by the worker; these are the values it starts with, but for an environment's choice.
        import os

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        state = (int(os.environ.get("OMP_NUM_THREADS", cores)), False, False)
    threads, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = state
    torch.set_num_threads(threads)
