"""Computation of work items in batches of one fixed size, and writing of their results to shards."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from pipeline.errors import ResourceError, ServiceError
from pipeline.execution.failures import Failure, device_errors
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


Arrays = dict[str, npt.NDArray[Any]]

_LOADERS = 2
"""Threads that read ahead while the worker computes."""
_LESS_AT_ONCE = "lower the stage's batch_size or engine.workers, or make the images smaller"
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
        unexpected_at_end: Unexpected failures since the last item of the group that went well.
    """

    shard: str | None = None
    keys: list[str] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)
    unexpected_at_end: int = 0

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
        ResourceError: The worker has no room for a batch; no item is recorded as failed, and what was computed before
            is written.
        ServiceError: The GPU failed; likewise.
    """
    group_results = _Group(folder, prefix)
    try:
        for outcomes in _batches(worker, items):
            for item, outcome in outcomes:
                group_results.add(item, outcome)
            if group_results.is_full(group):
                yield group_results.finish()
                group_results = _Group(folder, prefix)
    except (ResourceError, ServiceError):
        # The next run takes up the shard, though nobody hears of it in this one.
        group_results.finish()
        raise
    if group_results.count:
        yield group_results.finish()


class _Group:
    """Outcomes of the items that go into one shard."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._results: dict[str, Arrays] = {}
        self._failures: dict[str, Failure] = {}
        self._size, self._started, self._unexpected = 0, time.monotonic(), 0

    @property
    def count(self) -> int:
        return len(self._results) + len(self._failures)

    def add(self, item: WorkItem, outcome: Arrays | Failure) -> None:
        if isinstance(outcome, Failure):
            self._failures[item.key] = outcome
            self._unexpected += outcome.unexpected
        else:
            self._results[item.key] = outcome
            self._size += sum(array.nbytes for array in outcome.values())
            self._unexpected = 0

    def is_full(self, group: int) -> bool:
        full = self.count >= group or self._size >= _SHARD_BYTES
        return full or time.monotonic() - self._started >= _SHARD_SECONDS

    def finish(self) -> Finished:
        shard = write_shard(self._folder, self._results, self._prefix) if self._results else None
        return Finished(shard, list(self._results), self._failures, self._unexpected)


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
            with device_errors("reading an item", _LESS_AT_ONCE):
                return worker.load(payload)
        except (ResourceError, ServiceError):
            raise
        # Any other exception is this item's failure; `on_bad_item` decides what follows from it.
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
    except (ResourceError, ServiceError):
        # Each alone would be padded to the same size, or meet the same GPU, and fail again.
        raise
    # As for loading. Where everything fails, `build` takes it for a fault of the program.
    except Exception as error:
        if len(batch) == 1:
            return [(batch[0][0], Failure.of(error))]
    # One item fails the batch: computing each alone tells which.
    return [outcome for single in batch for outcome in _computed(worker, [single])]


def _padded(worker: Worker, loaded: list[Any]) -> list[Arrays]:
    full = loaded + [loaded[-1]] * (worker.batch_size - len(loaded))
    with device_errors(f"computing a batch of {len(full):,}", _LESS_AT_ONCE):
        results = worker.compute(full)
    if len(results) != len(full):
        raise ValueError(f"the worker returned {len(results)} results for {len(full)} items")
    return results[: len(loaded)]
