"""Writing of a cache from its units, as one verified HDF5 file."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.cache import layout
from pipeline.cache.columns import ColumnWriter, DeferredErrorFile, check_data, chunk_rows, row_bytes
from pipeline.cache.schema import Field, Provenance, Schema
from pipeline.errors import CacheError, DataError, OutputError
from pipeline.files import atomic_path, remove_leftovers
from pipeline.targets import require_file

_HDF5: Mapping[str, Any] = {
    "libver": layout.LIBVER,
    # Data sets start at multiples of 64 bytes, so that memory maps of any type are aligned.
    "alignment_threshold": 1,
    "alignment_interval": 64,
    # Without a chunk cache a full chunk is written at once, so its place follows from the content alone.
    "rdcc_nbytes": 0,
}


class UnitSource(Protocol):
    """Source from which `pack` reads the units of a cache, in their order.

    `pack` calls `lengths` for every unit before it calls `read` for any, so `lengths` should be cheap.
    """

    def __len__(self) -> int:
        """Return the number of units."""

    def lengths(self, unit: int) -> Mapping[str, int] | None:
        """Return the number of ragged rows of a unit by name of offsets; None for a unit that was skipped."""

    def read(self, unit: int) -> Mapping[str, npt.NDArray[Any]]:
        """Return all fields of a unit: a row for a dense field, rows for a ragged one. Not called for skipped units."""


def pack(path: Path, schema: Schema, provenance: Provenance, ids: Sequence[str], units: UnitSource) -> Path:
    """Write a cache, whole or not at all; its bytes depend on the arguments alone.

    Units are read in order; memory holds a block per field. A unit that was skipped has no ragged rows, zeros for its
    dense ones, and is listed in the data set `missing`. Temporary files of killed writers beside `path` are removed;
    of two writers at work the later one's file stays.

    Args:
        path: The final name.
        schema: What is written; shapes left open are taken from the first unit.
        provenance: What it was made from; `items` and `complete` are set here.
        ids: One per item, all different.
        units: `len(ids) * schema.units_per_item` of them.

    Returns:
        `path`.

    Raises:
        DataError: An id is repeated, a floating-point value is not finite, or no unit holds anything.
        OutputError: The disk is full, the folder cannot be written, `path` is no regular file, or the file does not
            read back as it was written.
        UnreadableError: A unit cannot be read, or the file just written cannot.
        ValueError: `units` contradicts the schema.
    """
    if len(units) != len(ids) * schema.units_per_item:
        raise ValueError(f"{len(units)} units for {len(ids)} items of {schema.units_per_item}")
    if (provenance.stage, provenance.schema_version) != (schema.stage, schema.version):
        raise ValueError(f"provenance of {provenance.stage} for the schema of {schema.stage}")
    _check_ids(ids, path)
    require_file(path)
    provenance = replace(provenance, items=len(ids), complete=False)
    plan = _plan(schema, units, path)
    remove_leftovers(path)
    with atomic_path(path) as temporary:
        _check_space(plan, temporary)
        _write(temporary, plan, provenance, ids, units)
        _verify(temporary, plan, provenance, ids, path)
        _mark_complete(temporary)
    return path


@dataclass(frozen=True)
class _Plan:
    """Layout of the file, decided before the first array is written.

    Attributes:
        schema: The schema, all shapes decided.
        units: Number of units.
        offsets: Name → int64 array of units + 1.
        missing: Skipped units.
    """

    schema: Schema
    units: int
    offsets: dict[str, npt.NDArray[np.int64]]
    missing: npt.NDArray[np.int64]

    def rows(self, field: Field) -> int:
        return self.units if field.offsets is None else int(self.offsets[field.offsets][-1])


def _check_ids(ids: Sequence[str], path: Path) -> None:
    previous: set[str] = set()
    for identity in ids:
        if identity in previous or not identity or "\0" in identity:
            what = "is repeated" if identity in previous else "is empty or holds a zero byte"
            raise DataError(f"the id {identity!r} {what}", where=path)
        previous.add(identity)


def _plan(schema: Schema, units: UnitSource, path: Path) -> _Plan:
    counts = {name: np.zeros(len(units), np.int64) for name in schema.offset_names}
    missing = []
    first: int | None = None
    for unit in range(len(units)):
        lengths = units.lengths(unit)
        if lengths is None:
            missing.append(unit)
            continue
        first = unit if first is None else first
        for name, count in counts.items():
            count[unit] = lengths[name]
    if first is None and len(units):
        raise DataError("every item was skipped, so there is nothing to pack", where=path)
    offsets = {name: np.concatenate([[0], np.cumsum(count)]).astype("<i8") for name, count in counts.items()}
    return _Plan(_decided(schema, units, first), len(units), offsets, np.array(missing, "<i8"))


def _decided(schema: Schema, units: UnitSource, first: int | None) -> Schema:
    """Return the schema with its open shapes filled in from the first unit; where there is none, with empty ones."""
    if all(field.shape is not None and -1 not in field.shape for field in schema.fields):
        return schema
    example = {} if first is None else units.read(first)

    def decide(field: Field) -> Field:
        if field.name not in example:
            return replace(field, shape=tuple(max(length, 0) for length in field.shape or ()))
        shape = example[field.name].shape[0 if field.offsets is None else 1 :]
        if not field.accepts(shape):
            raise ValueError(f"field {field.name} of unit {first} has rows of shape {shape}, not {field.shape}")
        return replace(field, shape=shape)

    return replace(schema, fields=tuple(decide(field) for field in schema.fields))


def _check_space(plan: _Plan, temporary: Path) -> None:
    """Raise OSError if the uncompressed fields need more space than is free; others have no known size yet."""
    needed = sum(plan.rows(field) * row_bytes(field) for field in plan.schema.fields if field.compression is None)
    free = shutil.disk_usage(temporary.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} are free")


def _write(temporary: Path, plan: _Plan, provenance: Provenance, ids: Sequence[str], units: UnitSource) -> None:
    schema = plan.schema
    with DeferredErrorFile(temporary, "r+") as target:
        with h5py.File(target, "w", **_HDF5) as file:
            layout.write_attributes(file, schema, provenance)
            _write_index(file, plan, ids)
            columns = [ColumnWriter(_create(file, field, plan.rows(field)), field, target) for field in schema.fields]
            skipped = set(plan.missing.tolist())
            for unit in range(plan.units):
                target.check()
                if unit in skipped:
                    for column in columns:
                        column.append_missing()
                    continue
                arrays = units.read(unit)
                for column in columns:
                    offsets = plan.offsets.get(column.field.offsets or "")
                    rows = None if offsets is None else int(offsets[unit + 1] - offsets[unit])
                    column.append(arrays[column.field.name], rows, f"item {ids[unit // schema.units_per_item]}")
            for column in columns:
                column.finish()
        target.check()


def _write_index(file: h5py.File, plan: _Plan, ids: Sequence[str]) -> None:
    index: list[tuple[str, npt.NDArray[Any], str, str]] = [
        ("ids", layout.ids_array(ids), "text", "names of the items, in the order of their units"),
        ("missing", plan.missing, "unit", "units that hold nothing because their item failed and was skipped"),
    ]
    for name, offsets in plan.offsets.items():
        index.append((name, offsets, "row", f"rows of unit u are {name}[u] : {name}[u + 1]"))
    for name, values, unit, description in index:
        dataset = layout.create_dataset(file, name, values.shape, values.dtype)
        layout.write_meaning(dataset, unit=unit, description=description)
        layout.write_digest(dataset, layout.digest(values))
        if values.size:
            dataset[...] = values


def _create(file: h5py.File, field: Field, rows: int) -> h5py.Dataset:
    shape = (rows, *field.row_shape)
    compressed = field.compression is not None and np.prod(shape, dtype=np.int64) > 0
    dataset = layout.create_dataset(
        file, field.name, shape, layout.stored_dtype(field), chunk_rows=chunk_rows(field, rows) if compressed else None
    )
    layout.write_meaning(dataset, unit=field.unit, description=field.description, offsets=field.offsets or "")
    return dataset


def _verify(temporary: Path, plan: _Plan, provenance: Provenance, ids: Sequence[str], path: Path) -> None:
    """Read the file back from its name and compare it with what was to be written."""
    try:
        with layout.damage_named(temporary, ""), h5py.File(temporary, "r", locking=False) as file:
            header = layout.read_header(file, temporary, "", unfinished=True)
            check_data(file, header, temporary, "")
    except CacheError as error:
        raise _differs(error.what, path) from error
    same_offsets = all(np.array_equal(header.offsets[name], plan.offsets[name]) for name in plan.offsets)
    if not same_offsets or header.ids != tuple(ids) or header.provenance != provenance:
        raise _differs("its header differs", path)


def _differs(what: str, path: Path) -> OutputError:
    return OutputError(
        f"the packed file does not read back as it was written ({what})",
        where=path,
        fix="check the disk and run the same command again",
    )


def _mark_complete(temporary: Path) -> None:
    with DeferredErrorFile(temporary, "r+") as target:
        with h5py.File(target, "r+", libver=layout.LIBVER) as file:
            file.attrs.modify("complete", np.bool_(True))
        target.check()
