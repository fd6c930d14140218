"""One arithmetic on all engines: the same number of threads and the same kernels, so the same bits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_THREADS = 1
"""Threads of one worker on the CPU.

PyTorch splits sums among its threads, so their order, and with it the last bits of a result, follows the number of
threads: with one, results are equal on the inline and the local engine and on machines with any number of cores. The
local engine uses the cores by its number of worker processes.
"""


@contextmanager
def fixed_arithmetic() -> Iterator[Callable[[], None]]:
    """Compute reproducibly within the block, and as before after it.

    Yields:
        What to call once a worker was built, since that may be what loads PyTorch.
    """
    before: list[tuple[int, bool, bool]] = []

    def settle_here() -> None:
        if "torch" in sys.modules and not before:
            before.append(_state())
        settle()

    try:
        settle_here()
        yield settle_here
    finally:
        if before:
            _restore(before[0])


def settle() -> None:
    """Fix PyTorch's threads and kernels, if PyTorch is loaded; stages that do without it never load it here."""
    if "torch" not in sys.modules:
        return
    import torch

    torch.set_num_threads(_THREADS)
    # cuDNN otherwise picks kernels by timing them, and may pick ones that add up in changing order.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _state() -> tuple[int, bool, bool]:
    import torch

    return torch.get_num_threads(), torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def _restore(state: tuple[int, bool, bool]) -> None:
    import torch

    threads, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = state
    torch.set_num_threads(threads)
