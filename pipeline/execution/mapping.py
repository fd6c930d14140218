"""Map over items: what an earlier run has finished is found again, the rest is computed, failures are gathered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from pipeline.errors import CacheError, DataError, ServiceError
from pipeline.execution.engines import compute_all
from pipeline.execution.items import Failure, Item, MakeWorker
from pipeline.execution.progress import Bar, say, track
from pipeline.execution.settings import EngineSettings
from pipeline.execution.shards import ShardStore
from pipeline.execution.workfolder import exclusive

_HOPELESS = 16
"""After so many unexpected failures and not one success the program itself must be at fault."""
_NAMED = 5
"""Failures that an error names before it only counts."""


def map_items(
    items: Sequence[Item],
    make_worker: MakeWorker,
    *,
    work: Path,
    engine: EngineSettings,
    title: str,
    group: int = 32,
) -> ShardStore:
    """Compute every item once and keep the results as shards in `work`.

    Items whose key is in `work` already are not computed again, and where all are, no worker is built. Items with equal
    keys are computed once. A run that is killed leaves its finished shards; the next one goes on from there.

    Args:
        items: In any order.
        make_worker: Builds the worker, once per process; picklable.
        work: A folder of their own for all results made with the same settings, weights and schema version;
            `work_folder` names one.
        engine: Where to compute, and what to do about items that fail.
        title: What is being done, for people.
        group: Items per shard: what a kill can cost. Best a multiple of the worker's batch size.

    Returns:
        The results by key; with `on_bad_item: skip`, those that failed are in its `failures`.

    Raises:
        DataError: Items failed and `on_bad_item` is fatal; all others have been computed.
        OutputError: `work` cannot be written, or another run is at work in it.
        ResourceError: The GPU's memory does not suffice; what was finished before is kept.
        ServiceError: The Dask scheduler cannot be reached or is lost.
    """
    folder = work.resolve()
    with exclusive(folder):
        return resume(items, make_worker, folder=folder, engine=engine, title=title, group=group)


def resume(
    items: Sequence[Item],
    make_worker: MakeWorker,
    *,
    folder: Path,
    engine: EngineSettings,
    title: str,
    group: int,
) -> ShardStore:
    """Do what `map_items` does in a work folder (absolute path) that the caller holds with `exclusive`."""
    unique = {item.key: item for item in items}
    store, dropped = ShardStore.scan(folder)
    if dropped:
        say(f"{title}: dropped {dropped:,} unreadable shard{'s'[: dropped > 1]}; their items are computed again")
    pending = [item for key, item in unique.items() if key not in store]
    if not pending:
        say(f"{title}: nothing to do, all {len(unique):,} items are there")
        return store
    with track(title, len(unique), done=len(unique) - len(pending)) as bar:
        failures = _compute(store, pending, make_worker, folder, engine, group, bar)
    if failures and engine.on_bad_item == "fatal":
        raise _failed(failures, items, len(unique))
    store.failures = {key: failure.reason for key, failure in failures.items()}
    return store


def _compute(
    store: ShardStore,
    pending: Sequence[Item],
    make_worker: MakeWorker,
    folder: Path,
    engine: EngineSettings,
    group: int,
    bar: Bar,
) -> dict[str, Failure]:
    failures: dict[str, Failure] = {}
    succeeded = 0
    # Closed whatever happens, since it may hold a cluster.
    with closing(compute_all(pending, make_worker, group=group, folder=folder, engine=engine)) as results:
        for finished in results:
            if finished.shard is not None:
                _take_up(store, finished.shard, engine)
            succeeded += len(finished.keys)
            failures.update(finished.failures)
            if not succeeded:
                _check_hopeless(failures.values())
            bar.advance(len(finished))
    return failures


def _take_up(store: ShardStore, shard: str, engine: EngineSettings) -> None:
    try:
        store.add(shard)
    except CacheError as error:
        if engine.engine in ("inline", "local"):
            raise
        raise ServiceError(
            "a worker wrote a shard that cannot be read here",
            where=error.where,
            fix="run from a folder on a file system that this machine and the cluster's workers share",
        ) from error


def _check_hopeless(failures: Iterable[Failure]) -> None:
    unexpected = [failure for failure in failures if failure.unexpected]
    if len(unexpected) >= _HOPELESS:
        raise RuntimeError(f"every item fails: {unexpected[0].reason}\n{unexpected[0].trace}")


def _failed(failures: dict[str, Failure], items: Sequence[Item], total: int) -> DataError:
    labels = {item.key: item.label for item in reversed(items)}
    named = [f"    {labels[key]}: {failure.reason}" for key, failure in list(failures.items())[:_NAMED]]
    if len(failures) > _NAMED:
        named.append(f"    and {len(failures) - _NAMED:,} more")
    count = f"{len(failures):,} of {total:,} items failed; the others are computed and kept"
    return DataError(
        "\n".join([count, *named]),
        fix="mend them and run the same command again, or set engine.on_bad_item to skip",
    )
