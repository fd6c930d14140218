"""Ragged HDF5 store: flat contiguous data sets with offsets, written whole or not at all, read by memory map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.cache.provenance import Expectation, Provenance
from pipeline.cache.schema import Field, Schema
from pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from pipeline.cache.inspect import describe, render
    from pipeline.cache.reader import Cache
    from pipeline.cache.writer import UnitSource, pack

__all__ = ["Cache", "Expectation", "Field", "Provenance", "Schema", "UnitSource", "describe", "pack", "render"]

# Stages declare their schemas when the command line starts; numpy and h5py wait until a file is touched.
__getattr__ = lazy_names(
    __name__,
    {
        "Cache": "reader",
        "UnitSource": "writer",
        "pack": "writer",
        "describe": "inspect",
        "render": "inspect",
    },
)
