"""From items to a finished cache: what every stage that fills one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from pipeline.cache.provenance import Expectation, Provenance
from pipeline.cache.reader import Cache
from pipeline.cache.schema import Schema
from pipeline.cache.writer import pack
from pipeline.errors import CacheError
from pipeline.execution.items import Item, MakeWorker
from pipeline.execution.mapping import resume
from pipeline.execution.progress import say
from pipeline.execution.settings import EngineSettings
from pipeline.execution.shards import ShardStore
from pipeline.execution.workfolder import exclusive, work_folder
from pipeline.files import write_json


def build_cache(
    output: Path,
    schema: Schema,
    provenance: Provenance,
    ids: Sequence[str],
    items: Sequence[Item],
    make_worker: MakeWorker,
    *,
    work: Path,
    engine: EngineSettings,
    title: str,
    group: int = 32,
) -> Path:
    """Make the cache `output`, unless it is there already and made from the same.

    Computes what `work` does not hold yet, packs in unit order, verifies, renames into place. The shards stay in
    `work`, so that a later change of one input recomputes one item. Items that were skipped are listed
    in `failures_path`.

    Args:
        output: The cache.
        schema: What it holds; the worker's arrays carry its fields' names, rows first for ragged ones.
        provenance: From what it is made.
        ids: One per pair.
        items: One per unit, in unit order: `ids[i]` at date t is `items[2 * i + t]` where units are images.
        make_worker: See `map_items`.
        work: Root of the work folders, `.work`.
        engine: See `map_items`.
        title: See `map_items`.
        group: See `map_items`.

    Returns:
        `output`.

    Raises:
        DataError: Items failed; see `map_items` and `pack`.
        OutputError: `work` or `output` cannot be written.
        ResourceError: The GPU's memory does not suffice; what was finished before is kept.
        ServiceError: See `map_items`.
        ValueError: There are not as many items as units.
    """
    if len(items) != len(ids) * schema.units_per_item:
        raise ValueError(f"{len(items)} items for {len(ids)} pairs of {schema.units_per_item} units")
    if _up_to_date(output, schema, provenance, ids, engine):
        say(f"{title}: nothing to do, {output} is up to date")
        return output
    folder = work_folder(work, provenance).resolve()

    def attempt() -> ShardStore:
        store = resume(items, make_worker, folder=folder, engine=engine, title=title, group=group)
        pack(output, schema, provenance, ids, _Units(store, items, schema))
        return store

    with exclusive(folder):
        try:
            store = attempt()
        except CacheError as error:
            # Of old shards only headers are read beforehand. The damaged one is gone now; its items are due again.
            say(f"{title}: {error.what}; its items are computed again")
            store = attempt()
    _record_failures(output, store, items)
    return output


def failures_path(output: Path) -> Path:
    """Return where the reasons of items that were skipped are listed: `scenes.failures.json` beside `scenes.h5`."""
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


def _record_failures(output: Path, store: ShardStore, items: Sequence[Item]) -> None:
    path = failures_path(output)
    failed = [(unit, item) for unit, item in enumerate(items) if item.key in store.failures]
    if failed:
        write_json(
            path, [{"unit": unit, "item": item.label, "reason": store.failures[item.key]} for unit, item in failed]
        )
    else:
        path.unlink(missing_ok=True)


class _Units:
    """The results of items as the units of a cache."""

    def __init__(self, store: ShardStore, items: Sequence[Item], schema: Schema) -> None:
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
