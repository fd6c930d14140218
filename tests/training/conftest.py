"""A prepared data set of six tiny pairs with distinct features and captions, and what stands around a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.execution.settings import EngineSettings
from tests.training import world


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def prepared(project: Path) -> Path:
    return world.write_pairs(project / "prepared")


@pytest.fixture
def scenes(project: Path, prepared: Path) -> Path:
    return world.write_scenes(project / "scenes.h5", prepared)


@pytest.fixture
def engine() -> EngineSettings:
    return EngineSettings(device="cpu")
