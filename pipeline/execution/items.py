"""What is mapped, and what maps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from pipeline.errors import SageccError


@dataclass(frozen=True)
class Item:
    """One piece of work.

    Attributes:
        key: Content key: equal for items whose results are equal, different as soon as anything that a result depends
            on differs (an image's bytes, rows of an upstream cache), other than settings and weights of the stage.
        label: What people call it.
        payload: What the worker loads it from; picklable and small. Paths in it must mean the same to all workers.
    """

    key: str
    label: str
    payload: Any


class Worker(Protocol):
    """Turns items into arrays; built once per process, since it holds a model.

    A result must not depend on which other items share a batch.
    """

    @property
    def batch_size(self) -> int:
        """Number of items per call of `compute`."""

    def load(self, payload: Any) -> Any:
        """Read one item. Called from threads, several at once.

        Raises:
            SageccError: The item is bad; it is recorded with this reason.
        """

    def compute(self, loaded: list[Any]) -> list[dict[str, npt.NDArray[Any]]]:
        """Return the named arrays of each of exactly `batch_size` loaded items."""


MakeWorker = Callable[[], Worker]
"""Builds a worker; picklable: a module's function or class, or a functools.partial of one."""


@dataclass(frozen=True)
class Failure:
    """Why an item has no result.

    Attributes:
        reason: For people.
        unexpected: Whether it was no SageccError, so perhaps a fault of the program.
        trace: The traceback, where it was unexpected.
    """

    reason: str
    unexpected: bool = False
    trace: str = ""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Describe what was raised over an item."""
        if isinstance(error, SageccError):
            return cls(error.what + (f" ({error.where})" if error.where else ""))
        import traceback

        return cls(
            f"{type(error).__name__}: {error}", unexpected=True, trace="".join(traceback.format_exception(error))
        )
