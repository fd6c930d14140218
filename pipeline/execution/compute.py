"""The worker's side: items in, shards out, in batches of one fixed size.

What is mapped, and what maps it.

A GPU whose memory runs out is told as such: it is no fault of the item that was at work.
"""

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

        return cls(
            f"{type(error).__name__}: {error}", unexpected=True, trace="".join(traceback.format_exception(error))
        )


@contextmanager
def shortage_told(doing: str, fix: str) -> Iterator[None]:
    """Turn PyTorch's error that the GPU's memory ran out within the block into the project's.

    Args:
        doing: What is done in the block, for people: "loading the model".
        fix: What to do.

    Raises:
        ResourceError: The memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        # Where PyTorch is not loaded, nothing on a GPU has failed; stages that do without it never load it here.
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
    """What came of some items.

    Attributes:
        shard: Name of the file that holds the results; None where all items failed.
        keys: Keys of the items with a result.
        failures: Key → why there is none.
    """

    shard: str | None = None
    keys: list[str] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys) + len(self.failures)


def compute_shards(
    worker: Worker, items: Iterable[Item], group: int, folder: Path, prefix: str = ""
) -> Iterator[Finished]:
    """Compute items and write their results to shards of about `group` items, as they come.

    How items fall into batches and shards changes no result: `compute` always gets exactly `batch_size` items. A short
    batch is filled up by repeating its last item, and what comes of the repetitions is dropped. Kernels are chosen by
    the shapes they are given; with one shape for all, an item's bits depend neither on its neighbours nor on
    where an earlier run was stopped.

    Args:
        worker: Loads and computes.
        items: In any order.
        group: Items per shard.
        folder: Where shards are written.
        prefix: What their names begin with.

    Raises:
        OutputError: A shard cannot be written.
        ResourceError: The worker has no room for a batch. No item is to blame, so none is taken for bad.
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


def _batches(worker: Worker, items: Iterable[Item]) -> Iterator[list[tuple[Item, Arrays | Failure]]]:
    """Load and compute, batch by batch; items that cannot be loaded come along with the next batch."""
    batch: list[tuple[Item, Any]] = []
    bad: list[tuple[Item, Arrays | Failure]] = []
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


def _loaded(worker: Worker, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
    """Load items in order, two batches ahead."""

    def load(payload: Any) -> Any:
        try:
            return worker.load(payload)
        # Whatever it is, it belongs to this item; `on_bad_item` decides what becomes of it.
        except Exception as error:
            return Failure.of(error)

    waiting: deque[tuple[Item, Future[Any]]] = deque()
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


def _computed(worker: Worker, batch: list[tuple[Item, Any]]) -> list[tuple[Item, Arrays | Failure]]:
    if not batch:
        return []
    try:
        return list(zip([item for item, _ in batch], _padded(worker, [loaded for _, loaded in batch]), strict=True))
    except ResourceError:
        # Each alone would be padded to the same size, and fail again.
        raise
    # As for loading. Where everything fails, `mapping` takes it for a fault of the program.
    except Exception as error:
        if len(batch) == 1:
            return [(batch[0][0], Failure.of(error))]
    # One item spoils the batch: each alone tells which.
    return [outcome for single in batch for outcome in _computed(worker, [single])]


def _padded(worker: Worker, loaded: list[Any]) -> list[Arrays]:
    full = loaded + [loaded[-1]] * (worker.batch_size - len(loaded))
    with shortage_told(f"computing a batch of {len(full):,}", "lower the stage's batch_size, or its images' size"):
        results = worker.compute(full)
    if len(results) != len(full):
        raise ValueError(f"the worker returned {len(results)} results for {len(full)} items")
    return results[: len(loaded)]
