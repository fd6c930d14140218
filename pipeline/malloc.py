"""Tuning of glibc's allocator so that a process keeps the memory that it frees.

Every step allocates and frees tensors of some megabytes. By default glibc returns each to the operating system, and
Dask makes its workers do so at once; every page of the next tensor is then mapped and zeroed again, which takes as long
as the arithmetic of small models on a CPU. Not in `runtime`, since the command line calls it before torch is loaded.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_MMAP_THRESHOLD: Final = 1 << 30
"""Size in bytes from which a block is mapped by itself, and unmapped when it is freed."""
_TRIM_THRESHOLD: Final = (1 << 31) - 1
"""Free bytes at the end of the heap from which they are returned: the largest value that mallopt takes."""
_TOP_PAD: Final = 1 << 26
"""Bytes by which the heap grows beyond what is requested."""

# Names and numbers of mallopt(3).
_OPTIONS: Final = {
    "MMAP_THRESHOLD": (-3, _MMAP_THRESHOLD),
    "TRIM_THRESHOLD": (-1, _TRIM_THRESHOLD),
    "TOP_PAD": (-2, _TOP_PAD),
}

ENVIRONMENT: Final = {f"MALLOC_{name}_": str(value) for name, (_, value) in _OPTIONS.items()}
"""The same settings as environment variables, for a process that is started later."""


def tune_glibc() -> bool:
    """Let this process keep the memory that it frees; return False, and do nothing, where there is no glibc."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return all([mallopt(number, value) == 1 for number, value in _OPTIONS.values()])
