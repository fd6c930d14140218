from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.paths import Paths
from tests.worlds import cache_world


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Trainings of tiny models: one thread in every test here."""


@pytest.fixture
def paths(project: Path, prepared: Path, scenes: Path) -> Paths:
    """Where everything of the project is: scenes, regions, matches, semantics and a graph of the six pairs."""
    return cache_world.write_all(project, prepared).at(scenes=scenes)
