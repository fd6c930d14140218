"""Building of a cache from work items, as every stage that writes one does it.

`build_cache` computes the items that no earlier run has finished (`resume`) and packs their results. Results lie as
shards in a work folder, outside of what DVC empties.
"""

from __future__ import annotations

import fcntl
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Expectation, Provenance, Schema
from pipeline.cache.writer import pack
from pipeline.errors import CacheError, DataError, OutputError, ServiceError
from pipeline.execution.compute import MakeWorker, WorkItem
from pipeline.execution.engines import compute_all
from pipeline.execution.failures import Failure
from pipeline.execution.settings import EngineSettings
from pipeline.execution.shards import ShardStore
from pipeline.files import NO_LOCKS, content_key, write_json
from pipeline.progress import Bar, say, track
from pipeline.system_errors import output_error
from pipeline.targets import require_file

_LOCK = ".lock"
_PAID = "llm"
"""Answers of language models, which cost money to ask again."""
_HOPELESS = 16
"""After so many unexpected failures in a row the program itself, or the machine, must be at fault."""
_NAMED = 5
"""Failures that an error lists before it only counts."""
_ADVISED = 2
"""Different pieces of advice that an error gives, those of most items first."""


def build_cache(
    output: Path,
    schema: Schema,
    provenance: Provenance,
    ids: Sequence[str],
    items: Sequence[WorkItem],
    make_worker: MakeWorker,
    *,
    work: Path,
    engine: EngineSettings,
    group: int = 32,
) -> Path:
    """Write the cache `output`, unless it exists and was made from the same.

    Computes what `work` does not hold yet, packs in unit order, verifies, renames into place. Items with equal keys are
    computed once; where `work` holds all, no worker is built. The shards stay in `work`, so that a run that is killed
    goes on, and a later change of one input recomputes one item. Items that were skipped are listed in `failures_path`.

    Args:
        output: The cache.
        schema: What it holds; the worker's arrays carry its fields' names, rows first for ragged ones.
        provenance: What it is made from; everything but items and upstream decides where shards are found again.
        ids: One per pair.
        items: One per unit, in unit order: `ids[i]` at date t is `items[2 * i + t]` where units are images.
        make_worker: Builds the worker, once per process; picklable.
        work: Root of the work folders, `.work`.
        engine: Where to compute, and what to do about items that fail.
        group: Items per shard: what a kill can cost. Best a multiple of the worker's batch size.

    Returns:
        `output`.

    Raises:
        DataError: Items failed and `on_bad_item` is fatal; all others have been computed. Or see `pack`.
        OutputError: `work` or `output` cannot be written, or another run is at work on the same items.
        ResourceError: Memory does not suffice, the GPU's or the machine's; what was finished before is kept.
        ServiceError: The Dask scheduler cannot be reached or is lost, or a GPU failed.
        RuntimeError: Item after item fails in a way that no worker expects.
        ValueError: There are not as many items as units.
    """
    if len(items) != len(ids) * schema.units_per_item:
        raise ValueError(f"{len(items)} items for {len(ids)} pairs of {schema.units_per_item} units")
    require_file(output)
    if _up_to_date(output, schema, provenance, ids, engine):
        say(f"{schema.stage}: nothing to do, {output} is up to date")
        return output
    folder = work_folder(work, provenance).resolve()

    def attempt() -> ShardStore:
        store = resume(items, make_worker, folder=folder, engine=engine, title=schema.stage, group=group)
        pack(output, schema, provenance, ids, _ItemUnits(store, items, schema))
        return store

    with exclusive(folder):
        try:
            store = attempt()
        except CacheError as error:
            # Of old shards only headers are read beforehand. The damaged one is removed now; its items are due again.
            say(f"{schema.stage}: {error.what}; its items are computed again")
            store = attempt()
    _record_failures(output, store, items)
    return output


def failures_path(output: Path) -> Path:
    """Return the file that lists skipped items and why they failed: `scenes.failures.json` beside `scenes.h5`."""
    return output.with_suffix(".failures.json")


def _up_to_date(
    output: Path, schema: Schema, provenance: Provenance, ids: Sequence[str], engine: EngineSettings
) -> bool:
    if not output.exists():
        return False
    try:
        with Cache.open(output, schema, expect=Expectation(settings_hash=provenance.settings_hash)) as cache:
            same = cache.provenance == replace(provenance, items=len(ids), complete=True) and cache.ids == tuple(ids)
            # What an earlier run was allowed to skip, this one may not be.
            return same and (cache.missing.size == 0 or engine.on_bad_item == "skip")
    except CacheError:
        return False


def _record_failures(output: Path, store: ShardStore, items: Sequence[WorkItem]) -> None:
    path = failures_path(output)
    listed = [
        {"unit": unit, "item": item.label, "reason": failure.reason} | ({"fix": failure.fix} if failure.fix else {})
        for unit, item in enumerate(items)
        if (failure := store.failures.get(item.key)) is not None
    ]
    if listed:
        write_json(path, listed)
        say(f"{output.stem}: all that was left empty is listed in {path}")
    else:
        path.unlink(missing_ok=True)


def work_folder(root: Path, provenance: Provenance) -> Path:
    """Return the folder of the shards of a cache that is to be made, `root/<stage>/<hash>`.

    The hash is taken of everything that all items' results depend on: stage, schema version, settings, weights and
    code. What a single result depends on is in its item's key instead, so that one changed input recomputes one item.
    """
    key = content_key(
        provenance.stage,
        provenance.schema_version,
        provenance.settings_hash,
        dict(provenance.weights),
        provenance.code,
    )
    return root / provenance.stage / key[:32]


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Make `folder` and lock it against other runs; the lock of a killed run is released by the operating system.

    Raises:
        OutputError: The folder cannot be written, or another run is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / _LOCK).open("wb")
    except OSError as error:
        raise output_error(error, folder) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                "another run is at work here", where=folder, fix="wait until it ends, or end it, and run again"
            ) from error
        except OSError as error:
            # Some network file systems know no locks; two runs would then do the same work twice, to the same result.
            if error.errno not in NO_LOCKS:
                raise output_error(error, folder) from error
        yield


def resume(
    items: Sequence[WorkItem],
    make_worker: MakeWorker,
    *,
    folder: Path,
    engine: EngineSettings,
    title: str,
    group: int,
) -> ShardStore:
    """Compute the items that no earlier run has finished, each key once, and keep the results as shards.

    Args:
        items: In any order.
        make_worker: See `build_cache`.
        folder: The work folder, an absolute path, which the caller holds with `exclusive`.
        engine: See `build_cache`.
        title: Name of the work, for progress and messages.
        group: See `build_cache`.

    Returns:
        The results by key; with `on_bad_item: skip`, those that failed are in its `failures`.

    Raises:
        DataError: Items failed and `on_bad_item` is fatal; all others have been computed.
        OutputError: `folder` cannot be written.
        ResourceError: See `build_cache`.
        ServiceError: See `build_cache`.
    """
    unique: dict[str, WorkItem] = {}
    for item in items:
        unique.setdefault(item.key, item)
    store, dropped = ShardStore.scan(folder)
    if dropped:
        say(f"{title}: dropped {dropped:,} unreadable shard{'s'[: dropped > 1]}; their items are computed again")
    pending = [item for key, item in unique.items() if key not in store]
    if not pending:
        say(f"{title}: nothing to do, all {len(unique):,} items are there")
        return store
    with track(title, len(unique), done=len(unique) - len(pending)) as bar:
        failures = _compute(store, pending, make_worker, folder, engine, group, bar)
    if failures:
        report = _report(failures, unique.values(), len(unique))
        if engine.on_bad_item == "fatal":
            raise DataError(
                "\n".join([f"{report.count} failed; the others are computed and kept", *report.named]),
                fix=f"{report.fix}, and run the same command again; or set engine.on_bad_item to skip",
            )
        say("\n".join([f"{title}: {report.count} failed and are left empty", *report.named, f"  fix:   {report.fix}"]))
    store.failures = failures
    return store


def _compute(
    store: ShardStore,
    pending: Sequence[WorkItem],
    make_worker: MakeWorker,
    folder: Path,
    engine: EngineSettings,
    group: int,
    bar: Bar,
) -> dict[str, Failure]:
    failures: dict[str, Failure] = {}
    succeeded = unexpected = 0
    # Closed whatever happens, since it may hold a cluster.
    with closing(compute_all(pending, make_worker, group=group, folder=folder, engine=engine)) as results:
        for finished in results:
            if finished.shard is not None:
                _add_shard(store, finished.shard, engine)
                unexpected = 0
            succeeded += len(finished.keys)
            unexpected += finished.unexpected_at_end
            failures.update(finished.failures)
            if unexpected >= _HOPELESS:
                last = [failure for failure in finished.failures.values() if failure.unexpected][-1]
                how_many = f"{unexpected:,} items in a row fail" if succeeded else "every item fails"
                raise RuntimeError(f"{how_many}: {last.reason}\n{last.trace}")
            bar.advance(len(finished))
    return failures


def _add_shard(store: ShardStore, shard: str, engine: EngineSettings) -> None:
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


@dataclass(frozen=True)
class _Report:
    """What is told about items that failed: how many of how many, the first of them by name, and what to do."""

    count: str
    named: list[str]
    fix: str


def _report(failures: Mapping[str, Failure], items: Iterable[WorkItem], total: int) -> _Report:
    failed = [(item.label, failures[item.key]) for item in items if item.key in failures]
    named = [f"    {label}: {failure.reason}" for label, failure in failed[:_NAMED]]
    if len(failed) > _NAMED:
        named.append(f"    and {len(failed) - _NAMED:,} more")
    advice = Counter(failure.fix for _, failure in failed if failure.fix)
    fixes = [f"{fix} ({number:,} of them)" if len(advice) > 1 else fix for fix, number in advice.most_common(_ADVISED)]
    return _Report(f"{len(failed):,} of {total:,} items", named, "; ".join(fixes) or "mend them")


class _ItemUnits:
    """Results of items as the units of a cache (`UnitSource`)."""

    def __init__(self, store: ShardStore, items: Sequence[WorkItem], schema: Schema) -> None:
        self._store = store
        self._items = items
        self._schema = schema

    def __len__(self) -> int:
        return len(self._items)

    def lengths(self, unit: int) -> Mapping[str, int] | None:
        key = self._items[unit].key
        if key in self._store.failures:
            return None
        rows = self._store.lengths(key)
        lengths: dict[str, int] = {}
        for field in self._schema.fields:
            if field.offsets is None:
                continue
            if lengths.setdefault(field.offsets, rows[field.name]) != rows[field.name]:
                raise ValueError(f"item {self._items[unit].label}: fields of {field.offsets} differ in length: {rows}")
        return lengths

    def read(self, unit: int) -> Mapping[str, npt.NDArray[Any]]:
        return self._store.read(self._items[unit].key)


def work_sizes(root: Path) -> dict[str, int]:
    """Return the number of bytes that each stage keeps under `root`."""
    stages = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return {
        stage.name: sum(file.stat().st_size for file in stage.rglob("*") if file.is_file() and not file.is_symlink())
        for stage in stages
    }


def clean(root: Path, stage: str | None = None) -> int:
    """Remove the shards of one stage, or of all; finished caches stay, and stay usable.

    Paid answers of language models (`llm`) are removed only when they are named.

    Returns:
        The bytes freed.

    Raises:
        OutputError: Something cannot be removed.
    """
    sizes = work_sizes(root)
    names = [name for name in sizes if name == stage or (stage is None and name != _PAID)]
    for name in names:
        try:
            shutil.rmtree(root / name)
        except OSError as error:
            raise output_error(error, root / name) from error
    return sum(sizes[name] for name in names)
