"""Spinning of OpenMP's threads: what torch's library reads, and who decides."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_SHOW = "from pipeline.openmp import shorten_spinning; print(shorten_spinning()); import torch"


def _displayed(**environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    run = subprocess.run(
        [sys.executable, "-c", _SHOW],
        env={**kept, "OMP_DISPLAY_ENV": "verbose", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    if "GOMP_SPINCOUNT" not in run.stderr:
        pytest.skip("torch has no OpenMP of GNU here")
    return run.stdout.strip() + " " + next(line for line in run.stderr.splitlines() if "GOMP_SPINCOUNT" in line)


def test_torch_reads_the_short_spin() -> None:
    assert _displayed().startswith("True")
    assert "'10000'" in _displayed()


def test_the_users_own_count_stays() -> None:
    shown = _displayed(GOMP_SPINCOUNT="77")
    assert shown.startswith("False") and "'77'" in shown
