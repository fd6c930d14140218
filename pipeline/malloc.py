"""Memory that is freed stays with the process.

Tensors of some megabytes come and go at every step. By default glibc hands each back to the system, and Dask's workers
are told to do so at once; every page of the next one must then be mapped and zeroed again, which takes as long as the
arithmetic of small models on a CPU. Nothing here changes a result.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_LARGE: Final = 1 << 30
"""Bytes from which on memory comes from the system and goes back to it, whatever is freed."""
_KEPT: Final = (1 << 31) - 1
"""Free bytes at the heap's end from which on they are handed back: the most that can be said."""
_AHEAD: Final = 1 << 26
"""Bytes by which the heap grows beyond what is asked for."""

# Names and numbers of mallopt(3).
_OPTIONS: Final = {"MMAP_THRESHOLD": (-3, _LARGE), "TRIM_THRESHOLD": (-1, _KEPT), "TOP_PAD": (-2, _AHEAD)}

ENVIRONMENT: Final = {f"MALLOC_{name}_": str(value) for name, (_, value) in _OPTIONS.items()}
"""The same for a process that is still to be started."""


def tune_glibc() -> bool:
    """Let this process keep what it frees; returns False where the C library is not glibc, and nothing was done."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return all([mallopt(number, value) == 1 for number, value in _OPTIONS.values()])
