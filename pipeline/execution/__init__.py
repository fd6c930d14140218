"""Maps over items: in this process, over processes here, or on a Dask cluster; resumable, and equal to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.execution.settings import EngineSettings
from pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from pipeline.execution.build import build_cache
    from pipeline.execution.items import Item, Worker
    from pipeline.execution.mapping import map_items
    from pipeline.execution.progress import say, track
    from pipeline.execution.shards import ShardStore
    from pipeline.execution.workfolder import clean, work_folder, work_sizes

__all__ = [
    "EngineSettings",
    "Item",
    "ShardStore",
    "Worker",
    "build_cache",
    "clean",
    "map_items",
    "say",
    "track",
    "work_folder",
    "work_sizes",
]

# Settings are read when the command line starts; the rest waits until something is run.
__getattr__ = lazy_names(
    __name__,
    {
        "Item": "items",
        "ShardStore": "shards",
        "Worker": "items",
        "build_cache": "build",
        "clean": "workfolder",
        "map_items": "mapping",
        "say": "progress",
        "track": "progress",
        "work_folder": "workfolder",
        "work_sizes": "workfolder",
    },
)
