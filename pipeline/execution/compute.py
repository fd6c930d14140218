"""Computation of work items in batches of one fixed size, and writing of their results to shards."""

from __future__ import annotations

import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from pipeline.errors import ResourceError, SageccError
from pipeline.execution.shards import write_shard


@dataclass(frozen=True)
class WorkItem:
    """One item to compute.

    Attributes:
        key: Content key: equal for items whose results are equal, different as soon as anything that a result depends
            on differs (an image's bytes, rows of an upstream cache), other than settings and weights of the stage.
        label: Its name in messages.
        payload: Argument of the worker's `load`; picklable and small. Paths in it must mean the same to all workers.
    """

    key: str
    label: str
    payload: Any


class Worker(Protocol):
    """Interface of a stage's computation: loads items and computes their arrays.

    Built once per process, since it holds a model. A result must not depend on which other items share a batch.
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
    """Reason why an item has no result.

    Attributes:
        reason: The reason, for people.
        unexpected: Whether the exception was no SageccError, so perhaps a fault of the program.
        trace: The traceback, where it was unexpected.
    """

    reason: str
    unexpected: bool = False
    trace: str = ""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Return the failure that an exception stands for."""
        if isinstance(error, SageccError):
            return cls(error.what + (f" ({error.where})" if error.where else ""))

        return cls(
            f"{type(error).__name__}: {error}", unexpected=True, trace="".join(traceback.format_exception(error))
        )


@contextmanager
def translate_oom(doing: str, fix: str) -> Iterator[None]:
    """Turn torch's out-of-memory error within the block into ResourceError; it is not the fault of an item.

    Args:
        doing: What the block does, for the message: "loading the model".
        fix: What to do about it.

    Raises:
        ResourceError: The GPU's memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        # Stages that do without PyTorch do not load it here: where it is not loaded, no GPU has failed.
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        raise ResourceError(f"the GPU's memory ran out while {doing}", where="engine.device", fix=fix) from error


Arrays = dict[str, npt.NDArray[Any]]

_LOADERS = 2
"""Threads that read ahead while the worker computes."""
_SHARD_BYTES = 64 << 20
_SHARD_SECONDS = 30.0
"""A shard is written once it holds so many bytes, or so much work, if it is not full by number before."""


@dataclass
class Finished:
    """Outcome of a group of items.

    Attributes:
        shard: Name of the file that holds the results; None where all items failed.
        keys: Keys of the items with a result.
        failures: Failure of each other item, by key.
    """

    shard: str | None = None
    keys: list[str] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys) + len(self.failures)


def compute_shards(
    worker: Worker, items: Iterable[WorkItem], group: int, folder: Path, prefix: str = ""
) -> Iterator[Finished]:
    """Compute items, write their results to shards of about `group` items, and yield each shard's outcome.

    How items are divided into batches and shards changes no result: `compute` always gets exactly `batch_size` items. A
    short batch is filled up by repeating its last item, whose further results are dropped. Kernels are chosen by the
    shapes of their inputs; with one shape for all, an item's bits depend neither on the other items of its batch nor on
    where an earlier run was stopped.

    Args:
        worker: Loads and computes.
        items: In any order.
        group: Items per shard.
        folder: Folder of the shards.
        prefix: Prefix of their file names.

    Raises:
        OutputError: A shard cannot be written.
        ResourceError: The worker has no room for a batch; no item is recorded as failed.
    """
    results: dict[str, Arrays] = {}
    failures: dict[str, Failure] = {}
    size, started = 0, time.monotonic()
    for outcomes in _batches(worker, items):
        for item, outcome in outcomes:
            if isinstance(outcome, Failure):
                failures[item.key] = outcome
            else:
                results[item.key] = outcome
                size += sum(array.nbytes for array in outcome.values())
        full = len(results) + len(failures) >= group or size >= _SHARD_BYTES
        if full or time.monotonic() - started >= _SHARD_SECONDS:
            yield _finish(folder, prefix, results, failures)
            results, failures = {}, {}
            size, started = 0, time.monotonic()
    if results or failures:
        yield _finish(folder, prefix, results, failures)


def _finish(folder: Path, prefix: str, results: dict[str, Arrays], failures: dict[str, Failure]) -> Finished:
    return Finished(write_shard(folder, results, prefix) if results else None, list(results), failures)


def _batches(worker: Worker, items: Iterable[WorkItem]) -> Iterator[list[tuple[WorkItem, Arrays | Failure]]]:
    """Load and compute, batch by batch; items that cannot be loaded are yielded with the next batch."""
    batch: list[tuple[WorkItem, Any]] = []
    bad: list[tuple[WorkItem, Arrays | Failure]] = []
    for item, loaded in _loaded(worker, items):
        if isinstance(loaded, Failure):
            bad.append((item, loaded))
        else:
            batch.append((item, loaded))
        if len(batch) == worker.batch_size:
            yield [*bad, *_computed(worker, batch)]
            batch, bad = [], []
    if batch or bad:
        yield [*bad, *_computed(worker, batch)]


def _loaded(worker: Worker, items: Iterable[WorkItem]) -> Iterator[tuple[WorkItem, Any]]:
    """Load items in order, two batches ahead."""

    def load(payload: Any) -> Any:
        try:
            return worker.load(payload)
        # Any exception is this item's failure; `on_bad_item` decides what follows from it.
        except Exception as error:
            return Failure.of(error)

    waiting: deque[tuple[WorkItem, Future[Any]]] = deque()
    pool = ThreadPoolExecutor(_LOADERS)
    try:
        for item in items:
            waiting.append((item, pool.submit(load, item.payload)))
            if len(waiting) > 2 * worker.batch_size:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _computed(worker: Worker, batch: list[tuple[WorkItem, Any]]) -> list[tuple[WorkItem, Arrays | Failure]]:
    if not batch:
        return []
    try:
        return list(zip([item for item, _ in batch], _padded(worker, [loaded for _, loaded in batch]), strict=True))
    except ResourceError:
        # Each alone would be padded to the same size, and fail again.
        raise
    # As for loading. Where everything fails, `build` takes it for a fault of the program.
    except Exception as error:
        if len(batch) == 1:
            return [(batch[0][0], Failure.of(error))]
    # One item fails the batch: computing each alone tells which.
    return [outcome for single in batch for outcome in _computed(worker, [single])]


def _padded(worker: Worker, loaded: list[Any]) -> list[Arrays]:
    full = loaded + [loaded[-1]] * (worker.batch_size - len(loaded))
    with translate_oom(f"computing a batch of {len(full):,}", "lower the stage's batch_size, or its images' size"):
        results = worker.compute(full)
    if len(results) != len(full):
        raise ValueError(f"the worker returned {len(results)} results for {len(full)} items")
    return results[: len(loaded)]
