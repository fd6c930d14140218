"""Workers for tests: importable by the processes of a Dask cluster, and without PyTorch, so that they start fast."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.cache.schema import Field, Provenance, Schema
from pipeline.errors import DataError
from pipeline.execution.compute import WorkItem
from pipeline.execution.settings import EngineSettings
from pipeline.files import content_key

SCHEMA = Schema(
    stage="squares",
    version=1,
    unit="pair",
    fields=(
        Field("total", "float32", (), None, "1", "sum of the values"),
        Field("squares", "float32", (2,), "offsets", "1", "each value and its square"),
    ),
)


def provenance(**changes: Any) -> Provenance:
    return Provenance(**({"stage": "squares", "schema_version": 1, "settings": {}, "settings_hash": "s"} | changes))


def engine(name: str = "inline", **changes: Any) -> EngineSettings:
    # These workers use no GPU; asking for one would load PyTorch.
    return EngineSettings(**({"engine": name, "workers": 2, "device": "cpu"} | changes))


def item(values: list[float], label: str | None = None) -> WorkItem:
    return WorkItem(key=content_key(values), label=label or f"item {values}", payload=values)


def items(count: int) -> list[WorkItem]:
    return [item([float(100 + index + step) for step in range(index % 4)], f"item {index}") for index in range(count)]


class Squares:
    """Squares numbers. A negative one cannot be loaded, 13 cannot be computed, 99 ends the process once or always."""

    def __init__(self, log: Path | None = None, *, batch_size: int = 4, seconds: float = 0.0, dies: str = "") -> None:
        self.batch_size = batch_size
        self._log = log
        self._seconds = seconds
        self._dies = dies
        self._note("built")

    def load(self, payload: list[float]) -> npt.NDArray[np.float32]:
        if any(value < 0 for value in payload):
            raise DataError("negative", where="a number")
        return np.array(payload, np.float32)

    def compute(self, loaded: list[npt.NDArray[np.float32]]) -> list[dict[str, npt.NDArray[Any]]]:
        if len(loaded) != self.batch_size:
            raise AssertionError(f"{len(loaded)} items instead of {self.batch_size}")
        if self._dies and any(99 in values for values in loaded):
            self._die()
        if any(13 in values for values in loaded):
            raise ZeroDivisionError("thirteen")
        time.sleep(self._seconds)
        self._note("computed")
        return [{"total": values.sum(), "squares": np.stack([values, values**2], axis=1)} for values in loaded]

    def _die(self) -> None:
        marker = Path(self._dies)
        if marker.name == "once":
            if marker.exists():
                return
            marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, what: str) -> None:
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as stream:
                stream.write(f"{what} {os.getpid()}\n")


class Refuses:
    """Must never be built."""

    def __init__(self) -> None:
        raise AssertionError("a worker was built though nothing was to be done")
