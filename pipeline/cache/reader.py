"""Reading of caches, checked against what the reader expects: by memory map, or as one tensor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import h5py
import numpy as np
import numpy.typing as npt
import torch

from pipeline.cache import layout
from pipeline.cache.columns import check_data
from pipeline.cache.schema import Expectation, Field, Schema
from pipeline.errors import CacheError
from pipeline.files import content_key


class Cache:
    """A complete cache, open for reading; get one from `Cache.open`.

    Contiguous fields are read through one memory map of the file, without HDF5. Compressed ones keep an HDF5 handle,
    opened on first use. Both belong to the process that made them: a pickled or forked Cache opens its own, and refuses
    a file that was replaced in the meantime.

    Attributes:
        path: The file.
        schema: As the file tells it: shapes are those found.
        provenance: What it was made from.
        ids: The items, in order.
        missing: Units that hold nothing because they were skipped, rising; int64.
    """

    def __init__(self, path: Path, header: layout.Header, fix: str) -> None:
        self.path = path
        self.schema = header.schema
        self.provenance = header.provenance
        self.ids = header.ids
        self.missing = header.missing
        self._header = header
        self._fix = fix
        self._process: int | None = None
        self._views: dict[str, npt.NDArray[Any]] = {}
        self._map: np.memmap[Any, Any]
        self._stream: FileIO
        self._file: h5py.File | None

    @classmethod
    def open(cls, path: Path, schema: Schema, *, expect: Expectation | None = None) -> Cache:
        """Open and check a cache.

        Args:
            path: The file.
            schema: What the reader knows how to read.
            expect: Settings, weights and inputs that it must have been made from.

        Raises:
            CacheError: The file is missing, truncated, damaged or unfinished; it is another stage's, has another schema
                version, or was made from other settings, weights or inputs. The message names the command that makes it
                anew.
            UnreadableError: The file is there and cannot be read.
        """
        expect = expect or Expectation()
        fix = expect.fix(schema.stage)
        with layout.damage_named(path, fix), path.open("rb", buffering=0) as stream, h5py.File(stream, "r") as file:
            header = layout.read_header(file, path, fix)
        _check_schema(header.schema, schema, path, fix)
        expect.check(header.provenance, path)
        return cls(path, header, fix)

    def __len__(self) -> int:
        """Return the number of units: items times dates."""
        return self._header.units

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each item by id."""
        return {identity: position for position, identity in enumerate(self.ids)}

    @cached_property
    def data_sha256(self) -> str:
        """Digest of what was computed: every field's values, and which units hold nothing; without reading them."""
        header = self._header
        return content_key(
            {name: extent.sha256 for name, extent in header.extents.items()},
            {name: layout.digest(offsets) for name, offsets in header.offsets.items()},
            self.missing.tolist(),
        )

    @cached_property
    def sha256(self) -> str:
        """Digest of all that the cache holds: what it was made from, its items, and `data_sha256`.

        Files of equal bytes have the same, other ones another, and it costs the reading of the header only: the digests
        of the values are those that `pack` took of what it wrote, and compared with what it read back. Caches that are
        made of this one name it by it. Values that are damaged later keep it; `verify` notices that.
        """
        stored = asdict(self.provenance)
        fields = [[field.name, field.dtype, list(field.row_shape), field.offsets] for field in self.schema.fields]
        return content_key(stored, self.schema.unit, fields, list(self.ids), self.data_sha256)

    def unit(self, identity: str, date: int = 0) -> int:
        """Return the unit of an item: `2i + date` where units are images, `i` where they are pairs.

        Raises:
            CacheError: The cache does not hold the item.
        """
        if identity not in self.index:
            raise CacheError(f"the cache does not hold {identity!r}", where=self.path, fix=self._fix)
        return self.index[identity] * self.schema.units_per_item + date

    def offsets(self, name: str) -> npt.NDArray[np.int64]:
        """Return an offsets data set: units + 1 row numbers."""
        return self._header.offsets[name]

    def row(self, field: str, unit: int) -> npt.NDArray[Any]:
        """Return a copy of what one unit holds: shape `row` for a dense field, `(n, *row)` for a ragged one."""
        flat, _ = self.rows(field, [unit])
        return flat[0] if self.schema.field(field).offsets is None else flat

    def rows(
        self, field: str, units: Sequence[int] | npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Return a copy of what several units hold, in the order asked for.

        Args:
            field: Name of the field.
            units: Units, in any order, repetitions allowed.

        Returns:
            The units' rows one after the other, shape `(sum of lengths, *row)`, and the number of rows of each unit,
            int64. The lengths of a dense field are all 1.

        Raises:
            IndexError: There is no such unit.
        """
        rows = np.asarray(units, dtype=np.int64)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"units {rows.min()} to {rows.max()} asked of a cache of {len(self)}: {self.path}")
        source = self._source(field)
        name = self.schema.field(field).offsets
        if name is None:
            if isinstance(source, np.ndarray):
                return source[rows], np.ones(rows.size, np.int64)
            starts, ends = rows, rows + 1
        else:
            offsets = self._header.offsets[name]
            starts, ends = offsets[rows], offsets[rows + 1]
        with layout.damage_named(self.path, self._fix):
            chunks = [source[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        # The empty slice in front fixes shape and type where nothing is asked for.
        flat = np.concatenate(chunks) if chunks else np.empty((0, *source.shape[1:]), source.dtype)
        return flat, ends - starts

    def memory_map(self, field: str) -> np.memmap[Any, Any]:
        """Return a contiguous field as it lies in the file, shape `(rows, *row)`, read-only, without a copy.

        Raises:
            ValueError: The field is compressed, or holds nothing (an empty file region cannot be mapped).
        """
        extent = self._header.extents[field]
        if extent.start is None:
            raise ValueError(f"field {field} of {self.path} is compressed or empty; read it with rows()")
        self._attach()
        return _on_map(self._map, self.schema.field(field), extent)

    def tensor(self, field: str, device: str | torch.device) -> torch.Tensor:
        """Return all rows of a field as one tensor of shape `(rows, *row)` on `device`, a copy of its own."""
        source = self._source(field)
        with layout.damage_named(self.path, self._fix):
            values = np.array(source) if isinstance(source, np.ndarray) else source[...]
        return torch.from_numpy(values).to(device)

    def verify(self) -> None:
        """Read everything through and compare it with the digests written beside it.

        Raises:
            CacheError: A field holds other bytes than were written.
        """
        with layout.damage_named(self.path, self._fix), h5py.File(self.path, "r", locking=False) as file:
            check_data(file, layout.read_header(file, self.path, self._fix), self.path, self._fix)

    def close(self) -> None:
        """Let go of the file. Arrays that were handed out stay valid; reading again opens it again."""
        if self._process == os.getpid():
            if self._file is not None:
                self._file.close()
            self._stream.close()
            del self._map
        self._views = {}
        self._process = None

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        attributes = ("path", "schema", "provenance", "ids", "missing", "_header", "_fix")
        return {**{name: self.__dict__[name] for name in attributes}, "_process": None, "_views": {}}

    def _source(self, field: str) -> npt.NDArray[Any] | h5py.Dataset:
        """Return a contiguous field as an array on the map, a compressed one as its data set."""
        self._attach()
        view = self._views.get(field)
        if view is not None:
            return view
        self.schema.field(field)
        if self._file is None:
            with layout.damage_named(self.path, self._fix):
                self._file = h5py.File(self._stream, "r")
        return self._file[field]

    def _attach(self) -> None:
        """Open the file for this process, unless that is done; see that it is still the same one."""
        if self._process == os.getpid():
            return
        with layout.damage_named(self.path, self._fix):
            stream = self.path.open("rb", buffering=0)
            with h5py.File(stream, "r") as file:
                header = layout.read_header(file, self.path, self._fix)
            if (header.provenance, header.ids, header.extents) != (self.provenance, self.ids, self._header.extents):
                raise CacheError("the cache was replaced after it was opened", where=self.path, fix="start again")
            whole = np.memmap(stream, dtype=np.uint8, mode="r")
        views = {}
        for field in self.schema.fields:
            extent = header.extents[field.name]
            if 0 in (extent.rows, *extent.shape):
                views[field.name] = np.empty((extent.rows, *extent.shape), layout.stored_dtype(field))
            elif extent.start is not None:
                # Slices of a plain array cost a fifth of those of an np.memmap.
                views[field.name] = np.asarray(_on_map(whole, field, extent))
        self._map, self._views, self._stream, self._file = whole, views, stream, None
        # Last, so that another thread never sees an unfinished state.
        self._process = os.getpid()


def cache_sha256(path: Path, schema: Schema) -> str:
    """Return `Cache.sha256` of the cache at `path`; see `Cache.open` for the errors."""
    with Cache.open(path, schema) as cache:
        return cache.sha256


def _on_map(whole: np.memmap[Any, Any], field: Field, extent: layout.Extent) -> np.memmap[Any, Any]:
    """Return a contiguous field as a view of the map of the whole file."""
    flat = whole[extent.start : extent.start + extent.stored] if extent.start is not None else whole[:0]
    view = flat.view(layout.stored_dtype(field)).reshape(extent.rows, *extent.shape)
    return cast("np.memmap[Any, Any]", view)


def _check_schema(stored: Schema, expected: Schema, path: Path, fix: str) -> None:
    if stored.stage != expected.stage:
        raise CacheError(f"a cache of stage {stored.stage}, not of {expected.stage}", where=path, fix=fix)
    if stored.version != expected.version:
        raise CacheError(
            f"schema version {stored.version} of stage {stored.stage}; this program reads {expected.version}",
            where=path,
            fix=fix,
        )
    if stored.unit != expected.unit or [f.name for f in stored.fields] != [f.name for f in expected.fields]:
        raise CacheError("the cache holds other fields or units than its schema version says", where=path, fix=fix)
    for declared, field in zip(expected.fields, stored.fields, strict=True):
        if not declared.accepts(field.row_shape) or (declared.dtype, declared.offsets) != (field.dtype, field.offsets):
            raise CacheError(
                f"field {field.name} is {field.dtype}{field.shape} by {field.offsets or 'unit'}, "
                f"not {declared.dtype}{declared.shape} by {declared.offsets or 'unit'}",
                where=path,
                fix=fix,
            )
