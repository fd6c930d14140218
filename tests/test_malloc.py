from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.malloc import ENVIRONMENT, tune_glibc

# Frees blocks that glibc would otherwise map one by one, and tells the page faults of doing it again and again.
_PROGRAM = """
import ctypes, resource, sys
from pipeline.malloc import tune_glibc
if "keep" in sys.argv:
    assert tune_glibc()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def round():
    for _ in range(20):
        block = libc.malloc(48 << 20)
        ctypes.memset(block, 1, 48 << 20)
        libc.free(block)
round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(*arguments: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not tune_glibc(), reason="the C library is not glibc")
def test_freed_memory_is_used_again() -> None:
    plain = _faults()
    assert plain > 1000
    assert _faults("keep") < plain / 10
    assert _faults(**ENVIRONMENT) < plain / 10
