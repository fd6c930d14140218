"""Computing items in a work folder, as `build_cache` does before it packs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.execution.build import exclusive, resume
from pipeline.execution.compute import MakeWorker, WorkItem
from pipeline.execution.settings import EngineSettings
from pipeline.execution.shards import ShardStore


def run_items(
    items: Sequence[WorkItem], make_worker: MakeWorker, *, work: Path, engine: EngineSettings, group: int = 32
) -> ShardStore:
    folder = work.resolve()
    with exclusive(folder):
        return resume(items, make_worker, folder=folder, engine=engine, title="squares", group=group)
