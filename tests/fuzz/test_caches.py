"""Mutated caches of every kind: success or the project's own error, no crash of the HDF5 library, no hang."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import cache_files
from tests.worlds import cache_world

ROOT = Path(__file__).parents[2]


@pytest.fixture
def caches(project: Path, prepared: Path, scenes: Path) -> Path:
    """A folder with one sound cache of every kind."""
    cache_world.write_all(project, prepared)
    cache_world.write_masks(project / "masks.h5", prepared)
    (project / "graph" / "graph.h5").rename(project / "graph.h5")
    for name in cache_files.SCHEMAS:
        cache_files.read(project / f"{name}.h5", name)
    return project


def run(folder: Path, start: int, count: int) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.fuzz.cache_files", str(folder), str(start), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, ((folder / "at").read_text(), done.returncode, done.stderr[-2000:])
    outcomes: dict[str, int] = json.loads(done.stdout)["outcomes"]
    print(done.stdout)
    assert sum(outcomes.values()) == count
    return outcomes


def test_a_hundred_mutated_caches(caches: Path) -> None:
    outcomes = run(caches, 0, 100)
    assert outcomes["CacheError"] > 60
    assert outcomes["read"] > 0


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_thousand_mutated_caches(caches: Path) -> None:
    for start in range(100, 10_100, 1000):
        run(caches, start, 1000)
