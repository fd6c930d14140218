"""Engines that compute groups of items: this process, or the processes of a Dask cluster.

All engines compute with the same number of threads and the same kernels, so results have the same bits. This module is
also what Dask loads first in the local engine's worker processes (`dask_setup`).
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import ServiceError, first_line
from pipeline.execution.compute import Finished, MakeWorker, Worker, WorkItem, compute_shards
from pipeline.execution.failures import Failure, device_errors
from pipeline.execution.settings import EngineSettings
from pipeline.execution.shards import find_shards
from pipeline.files import content_key
from pipeline.malloc import ENVIRONMENT
from pipeline.progress import say


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Raise KeyboardInterrupt on Ctrl-C as usual, and once more at the next check, in case the first was lost.

    Python raises KeyboardInterrupt wherever the main thread happens to be; inside a finaliser, of which Dask's futures
    have many, the exception is printed and dropped.

    Yields:
        A function to call regularly: it raises KeyboardInterrupt if Ctrl-C was pressed earlier.
    """
    pressed = threading.Event()

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        pressed.set()
        raise KeyboardInterrupt

    # Only the main thread may set signal handlers; handlers that somebody else has set are left alone.
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield check
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


_THREADS = 1
"""Threads of one worker on the CPU.

PyTorch splits sums among its threads, so their order, and with it the last bits of a result, follows the number of
threads: with one, results are equal on the inline and the local engine and on machines with any number of cores. The
local engine uses the cores by its number of worker processes.
"""


@contextmanager
def deterministic_torch() -> Iterator[Callable[[], None]]:
    """Set PyTorch to compute reproducibly within the block, and restore its state afterwards.

    Yields:
        A function that applies the settings again: call it once a worker is built, since that may load PyTorch.
    """
    before: list[tuple[int, bool, bool]] = []

    def apply() -> None:
        if "torch" in sys.modules and not before:
            before.append(_state())
        apply_determinism()

    try:
        apply()
        yield apply
    finally:
        if before:
            _restore(before[0])


def apply_determinism() -> None:
    """Fix PyTorch's threads and kernels if PyTorch is loaded; stages that do without it do not load it here."""
    if "torch" not in sys.modules:
        return
    import torch

    torch.set_num_threads(_THREADS)
    # cuDNN otherwise picks kernels by timing them, and may pick ones that add up in changing order.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _state() -> tuple[int, bool, bool]:
    import torch

    return torch.get_num_threads(), torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def _restore(state: tuple[int, bool, bool]) -> None:
    import torch

    threads, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = state
    torch.set_num_threads(threads)


def dask_setup(_: object) -> None:
    """Ignore Ctrl-C in worker processes, which the main process ends; otherwise each would print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_CONNECT_SECONDS = 30
_WORKER_SECONDS = 300
"""How long a scheduler may take to answer, and to get its first worker (a batch system may let it wait)."""
_AHEAD = 2
"""Groups in flight per worker: one at work, one waiting."""


def compute_all(
    items: Sequence[WorkItem], make_worker: MakeWorker, *, group: int, folder: Path, engine: EngineSettings
) -> Generator[Finished, None, None]:
    """Compute items on the engine that the settings choose, and yield outcomes in any order.

    Args:
        items: The items to compute; at least one.
        make_worker: Called once per process.
        group: Number of items per shard.
        folder: Absolute path of the work folder. Workers write their shards there themselves, so for a cluster of
            several machines it lies on a file system that they share.
        engine: Which engine.

    Raises:
        ResourceError: Memory does not suffice, the GPU's or the machine's.
        ServiceError: The scheduler cannot be reached, has no workers, or is lost; or a GPU failed.
        SageccError: Whatever building a worker raises.
    """
    if engine.engine == "inline":
        return _inline(items, make_worker, group, folder)
    return _dask(items, make_worker, group, folder, engine)


def _inline(
    items: Sequence[WorkItem], make_worker: MakeWorker, group: int, folder: Path
) -> Generator[Finished, None, None]:
    with deterministic_torch() as apply:
        worker = _build_worker(make_worker)
        apply()
        yield from compute_shards(worker, items, group, folder)


def _build_worker(make_worker: MakeWorker) -> Worker:
    with device_errors("loading the models", "use fewer engine.workers, or set engine.device to cpu"):
        return make_worker()


def _dask(
    items: Sequence[WorkItem], make_worker: MakeWorker, group: int, folder: Path, engine: EngineSettings
) -> Generator[Finished, None, None]:
    with _client(engine, len(items)) as client:
        workers = max(1, sum(client.nthreads().values()))
        size = max(1, min(group, -(-len(items) // workers)))
        groups = deque(list(items[start : start + size]) for start in range(0, len(items), size))
        with deferred_interrupt() as check_interrupt:
            for finished in _submit_all(client, workers, groups, make_worker, folder):
                check_interrupt()
                yield finished


def _submit_all(
    client: Any, workers: int, groups: deque[list[WorkItem]], make_worker: MakeWorker, folder: Path
) -> Generator[Finished, None, None]:
    """Keep a few groups per worker in flight until all are done."""
    distributed = _distributed()
    run = uuid.uuid4().hex
    running: dict[Any, list[WorkItem]] = {}
    completed = distributed.as_completed()
    try:
        while groups or running:
            while groups and len(running) < _AHEAD * workers:
                items = groups.popleft()
                future = client.submit(compute_group, make_worker, items, str(folder), run, pure=False)
                running[future] = items
                completed.add(future)
            future = next(completed)
            items = running.pop(future)
            error = future.exception() if future.status == "error" else None
            if isinstance(error, distributed.KilledWorker):
                if len(items) == 1:
                    died = Failure("its worker process died each time: out of memory, or a crash", unexpected=True)
                    yield Finished(failures={items[0].key: died})
                else:
                    # One item killed the worker of the whole group: computing each alone tells which.
                    groups.extend([item] for item in items)
            elif error is not None:
                raise error
            elif future.status == "finished":
                yield from _result(future)
            elif future.status == "cancelled":
                raise _lost(future.status)
            else:
                # The worker died with the answer; the scheduler gives the group to another, which computes what the
                # first has not written.
                running[future] = items
                completed.add(future)
    finally:
        client.cancel(list(running))


def _result(future: Any) -> list[Finished]:
    try:
        outcomes: list[Finished] = future.result()
    except (OSError, TimeoutError, CancelledError) as error:
        raise _lost(error) from error
    return outcomes


def _lost(why: object) -> ServiceError:
    return ServiceError(
        f"the Dask scheduler was lost ({why})",
        where="engine.engine",
        fix="see that it runs, then run the same command again; finished shards are kept",
    )


_worker_lock = threading.Lock()
_workers: dict[str, Worker] = {}
"""The worker of this process, by the run it was built for; one at a time, since it holds a model."""


def compute_group(make_worker: MakeWorker, items: list[WorkItem], folder: str, run: str) -> list[Finished]:
    """Compute one group of items in a worker process of Dask, which builds its worker on first use in a run.

    What another process has written of the group is not computed again: that process died with its answer, or before
    its last shard.

    Args:
        make_worker: Builds the worker.
        items: The group.
        folder: The work folder; the results go there, and only names travel back.
        run: Names the run. A later run on a long-lived cluster builds its own worker, since the weights under a path
            may have changed.
    """
    # A worker is built for one thread; where a cluster gives a process several, they take turns.
    with _worker_lock:
        prefix = f"{content_key([item.key for item in items])[:16]}-"
        done = [Finished(name, keys) for name, keys in find_shards(Path(folder), prefix)]
        written = {key for finished in done for key in finished.keys}
        items = [item for item in items if item.key not in written]
        if not items:
            return done
        apply_determinism()
        if run not in _workers:
            _workers.clear()
            _workers[run] = _build_worker(make_worker)
            apply_determinism()
        return [*done, *compute_shards(_workers[run], items, len(items), Path(folder), prefix)]


@contextmanager
def _client(engine: EngineSettings, items: int) -> Iterator[Any]:
    distributed = _distributed()
    if engine.engine == "local":
        with _local_cluster(_environments(engine, items)) as cluster, distributed.Client(cluster) as client:
            yield client
        return
    try:
        client = distributed.Client(engine.engine, timeout=_CONNECT_SECONDS)
    except (OSError, TimeoutError) as error:
        raise ServiceError(
            f"no Dask scheduler answers: {error}",
            where=f"engine.engine = {engine.engine}",
            fix="start one, or set engine.engine to inline or local",
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_WORKER_SECONDS)
        except TimeoutError as error:
            raise ServiceError("the Dask scheduler has no workers", where=engine.engine, fix="start some") from error
        yield client


@contextmanager
def _local_cluster(environments: Sequence[Mapping[str, str]]) -> Iterator[Any]:
    """Start a scheduler and one worker process per environment.

    This is Dask's LocalCluster, which has no way to give each worker an environment of its own.
    """
    distributed = _distributed()
    address = {"host": "127.0.0.1", "protocol": "tcp://", "security": distributed.Security()}
    options = {
        **address,
        "nthreads": 1,
        # Models decide how much memory a worker needs; the nanny's guess would kill them.
        "memory_limit": 0,
        "dashboard": False,
        "silence_logs": logging.CRITICAL,
        "preload": ["pipeline.execution.engines"],
    }
    # Dask's own setting is to hand back freed memory at once.
    spawned_with = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in ENVIRONMENT.items()}
    with importlib.import_module("dask.config").set(spawned_with):
        try:
            cluster = distributed.SpecCluster(
                scheduler={"cls": distributed.Scheduler, "options": {**address, "port": 0, "dashboard": False}},
                workers={
                    number: {"cls": distributed.Nanny, "options": {**options, "env": dict(environment)}}
                    for number, environment in enumerate(environments)
                },
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ServiceError(
                f"the local engine's processes cannot be started: {first_line(error)}",
                where="engine.engine = local",
                fix="check the folder for temporary files (TMPDIR, DASK_TEMPORARY_DIRECTORY), /dev/shm, in which "
                "processes share memory, and the limits of this machine (`ulimit -a`), or set engine.engine to inline",
            ) from error
        with cluster:
            yield cluster


_VISIBLE = "CUDA_VISIBLE_DEVICES"


def _environments(engine: EngineSettings, items: int) -> list[dict[str, str]]:
    """Return what is to be set in the environment of each worker of the local engine, at most one worker per item."""
    gpus = _gpus() if engine.device != "cpu" else []
    if not gpus:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return [{}] * min(engine.workers or cores, items)
    workers = min(engine.workers or len(gpus), items)
    if workers > len(gpus):
        say(f"engine.workers: {workers:,} workers share {len(gpus):,} GPU{'s'[: len(gpus) > 1]}, each with its models")
    return [{_VISIBLE: gpus[number % len(gpus)]} for number in range(workers)]


def _gpus() -> list[str]:
    """Return each usable GPU as CUDA_VISIBLE_DEVICES names it: a number, a UUID, or that of a MIG instance."""
    import torch

    if not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    if _VISIBLE not in os.environ:
        return [str(number) for number in range(count)]
    names = [name.strip() for name in os.environ[_VISIBLE].split(",")]
    if all(name.startswith("MIG") for name in names):
        # One process sees one MIG instance however many are listed.
        return names
    return names[:count]


def _distributed() -> Any:
    """Import Dask's distributed, which takes most of a second and carries no types.

    Raises:
        ServiceError: Its settings cannot be read.
    """
    try:
        return importlib.import_module("distributed")
    # It reads its settings while it is imported, and lets every error of the YAML reader through.
    except Exception as error:
        raise ServiceError(
            f"Dask cannot be loaded: {first_line(error)}",
            where="engine.engine",
            fix="correct Dask's own settings (the file or folder of DASK_CONFIG, ~/.config/dask, variables that begin "
            "with DASK_), or set engine.engine to inline",
        ) from error
