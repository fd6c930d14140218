"""Ragged HDF5 store: flat contiguous data sets with offsets, written whole or not at all, read by memory map."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pipeline.cache.provenance import Expectation, Provenance
from pipeline.cache.schema import Field, Schema

if TYPE_CHECKING:
    from pipeline.cache.inspect import describe, render
    from pipeline.cache.reader import Cache
    from pipeline.cache.writer import UnitSource, pack

__all__ = ["Cache", "Expectation", "Field", "Provenance", "Schema", "UnitSource", "describe", "pack", "render"]

# Stages declare their schemas when the command line starts; numpy and h5py wait until a file is touched.
_HOMES = {
    "Cache": "reader",
    "UnitSource": "writer",
    "pack": "writer",
    "describe": "inspect",
    "render": "inspect",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
