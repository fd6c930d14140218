"""The HDF5 format of caches: writing and reading the header. docs/caches.md describes it in words."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.cache.schema import Field, Provenance, Schema
from pipeline.errors import CacheError
from pipeline.files import canonical_json
from pipeline.system_errors import failed_read, read_error

FORMAT = "sagecc-cache"
FORMAT_VERSION = 1
LIBVER = ("v110", "v110")
"""One fixed HDF5 file format: its headers carry checksums, so damage is noticed, and its bytes do not change with the
library's default."""


@dataclass(frozen=True)
class Extent:
    """Position and size of the data of one field in the file.

    Attributes:
        rows: Number of rows.
        shape: Shape of one row.
        start: First byte in the file; None where the data set is compressed or empty.
        stored: Bytes it takes in the file.
        sha256: SHA-256 of the uncompressed little-endian data.
    """

    rows: int
    shape: tuple[int, ...]
    start: int | None
    stored: int
    sha256: str


@dataclass(frozen=True)
class Header:
    """Everything that a cache holds but the data of its fields.

    Attributes:
        schema: As the file tells it; shapes are those found.
        provenance: From what it was made.
        ids: The items, in order.
        missing: Units that hold nothing because they were skipped, rising; int64.
        offsets: Name → int64 array of units + 1.
        extents: Field name → where its data lies.
    """

    schema: Schema
    provenance: Provenance
    ids: tuple[str, ...]
    missing: npt.NDArray[np.int64]
    offsets: dict[str, npt.NDArray[np.int64]]
    extents: dict[str, Extent]

    @property
    def units(self) -> int:
        """Number of units: items times dates."""
        return len(self.ids) * self.schema.units_per_item


def write_attributes(file: h5py.File, schema: Schema, provenance: Provenance) -> None:
    """Write the root attributes in their fixed order; `complete` is False until the file has been verified."""
    _write_text(file, "format", FORMAT)
    file.attrs.create("format_version", FORMAT_VERSION, dtype="<i8")
    _write_text(file, "stage", schema.stage)
    file.attrs.create("schema_version", schema.version, dtype="<i8")
    _write_text(file, "unit", schema.unit)
    _write_text(file, "settings", canonical_json(dict(provenance.settings)))
    _write_text(file, "settings_hash", provenance.settings_hash)
    _write_text(file, "weights", canonical_json(dict(provenance.weights)))
    _write_text(file, "upstream", canonical_json(dict(provenance.upstream)))
    _write_text(file, "code", provenance.code)
    _write_text(file, "fields", canonical_json([field.name for field in schema.fields]))
    file.attrs.create("items", provenance.items, dtype="<i8")
    file.attrs.create("complete", np.bool_(False))


def create_dataset(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any, *, chunk_rows: int | None = None
) -> h5py.Dataset:
    """Create a data set without a time stamp: contiguous and in place at once, or gzipped in chunks of whole rows."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    if chunk_rows is None:
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        return file.create_dataset(name, shape, dtype=dtype, dcpl=creation, track_times=False)
    chunks = (chunk_rows, *shape[1:])
    return file.create_dataset(
        name, shape, dtype=dtype, dcpl=creation, track_times=False, chunks=chunks, compression="gzip", shuffle=True
    )


def write_meaning(dataset: h5py.Dataset, *, unit: str, description: str, offsets: str = "") -> None:
    """Write the attributes that say what a data set means; `offsets` is empty for dense fields."""
    _write_text(dataset, "unit", unit)
    _write_text(dataset, "description", description)
    _write_text(dataset, "offsets", offsets)


def write_digest(dataset: h5py.Dataset, digest: str) -> None:
    """Write the SHA-256 of a data set's content beside it."""
    _write_text(dataset, "sha256", digest)


def stored_dtype(field: Field) -> np.dtype[Any]:
    """Return the little-endian type in which a field is stored."""
    return np.dtype(field.dtype).newbyteorder("<")


def ids_array(ids: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """Encode ids as UTF-8 of one fixed length."""
    encoded = [identity.encode() for identity in ids]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded), default=1)))


def digest(data: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(data).view(np.uint8).data).hexdigest() if data.size else _EMPTY


_EMPTY = hashlib.sha256(b"").hexdigest()


@contextmanager
def damage_named(path: Path, fix: str) -> Iterator[None]:
    """Turn whatever h5py raises over a damaged file into a CacheError, and a failed read into an UnreadableError."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CacheError("the cache does not exist", where=path, fix=fix) from error
    except MemoryError as error:
        # Headers carry checksums: a size that does not fit is one that was written, on a machine with more memory.
        raise read_error(OSError(errno.ENOMEM, "memory"), path) from error
    except (
        OSError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
    ) as error:
        if failed := failed_read(error, path):
            raise failed from error
        raise CacheError(
            "the cache cannot be read: it is truncated, damaged, still being written, or no cache",
            where=path,
            fix=fix,
        ) from error


def read_header(file: h5py.File, path: Path, fix: str, *, unfinished: bool = False) -> Header:
    """Read everything but the fields' data, and check that it fits together.

    Call it within `damage_named`. Only the writer itself reads an `unfinished` file.

    Raises:
        CacheError: The file is no cache, unfinished, of another format version, or its parts contradict each other.
    """

    def broken(what: str) -> CacheError:
        return CacheError(f"the cache is damaged: {what}", where=path, fix=fix)

    if "format" not in file.attrs or _read_text(file, "format") != FORMAT:
        raise CacheError("not a cache of this project", where=path, fix=fix)
    version = int(file.attrs["format_version"])
    if version != FORMAT_VERSION:
        raise CacheError(f"file format version {version}; this program reads {FORMAT_VERSION}", where=path, fix=fix)
    if "code" not in file.attrs:
        raise CacheError(
            "the cache was written by an earlier version, which did not note by what code it was computed",
            where=path,
            fix=fix,
        )
    provenance = Provenance(
        stage=_read_text(file, "stage"),
        schema_version=int(file.attrs["schema_version"]),
        settings=dict(json.loads(_read_text(file, "settings"))),
        settings_hash=_read_text(file, "settings_hash"),
        weights=dict(json.loads(_read_text(file, "weights"))),
        upstream=dict(json.loads(_read_text(file, "upstream"))),
        code=_read_text(file, "code"),
        items=int(file.attrs["items"]),
        complete=bool(file.attrs.get("complete", False)),
    )
    # The attribute keeps the order of the schema; HDF5 itself lists data sets by name.
    fields = tuple(_read_field(file[name]) for name in json.loads(_read_text(file, "fields")))
    for field in fields:
        if file[field.name].dtype != stored_dtype(field):
            raise broken(f"{field.name} is not stored as little-endian {field.dtype}")
    unit: Any = _read_text(file, "unit")
    schema = Schema(provenance.stage, provenance.schema_version, unit, fields)
    if not provenance.complete and not unfinished:
        raise CacheError("the cache is unfinished: its writer is still at work, or was stopped", where=path, fix=fix)
    ids = tuple(value.decode() for value in _read_checked(file, "ids", broken).tolist())
    if len(ids) != provenance.items or len(set(ids)) < len(ids):
        raise broken(f"{len(set(ids))} ids for {provenance.items} items")
    header = Header(
        schema=schema,
        provenance=provenance,
        ids=ids,
        missing=_read_checked(file, "missing", broken),
        offsets={name: _read_checked(file, name, broken) for name in schema.offset_names},
        extents={field.name: _extent(file[field.name]) for field in fields},
    )
    if problem := _contradiction(header, file.id.get_filesize()):
        raise broken(problem)
    return header


def _contradiction(header: Header, size: int) -> str | None:
    units = header.units
    for name, offsets in header.offsets.items():
        if (
            offsets.dtype != np.int64
            or offsets.shape != (units + 1,)
            or offsets[0] != 0
            or bool((np.diff(offsets) < 0).any())
        ):
            return f"{name} is not a rising list of {units + 1} row numbers"
    for field in header.schema.fields:
        extent = header.extents[field.name]
        expected = units if field.offsets is None else int(header.offsets[field.offsets][-1])
        if extent.rows != expected:
            return f"{field.name} has {extent.rows} rows instead of {expected}"
        if extent.start is not None and extent.start + extent.stored > size:
            return f"{field.name} reaches beyond the end of the file"
    missing = header.missing
    if missing.dtype != np.int64 or missing.ndim != 1:
        return "missing is not a list of units"
    if missing.size and (missing[0] < 0 or missing[-1] >= units or bool((np.diff(missing) <= 0).any())):
        return "missing is not a rising list of units"
    return None


def _read_field(dataset: h5py.Dataset) -> Field:
    return Field(
        name=dataset.name.lstrip("/"),
        dtype=dataset.dtype.name,
        shape=tuple(dataset.shape[1:]),
        offsets=_read_text(dataset, "offsets") or None,
        unit=_read_text(dataset, "unit"),
        description=_read_text(dataset, "description"),
        compression=dataset.compression,
    )


def _extent(dataset: h5py.Dataset) -> Extent:
    return Extent(
        rows=dataset.shape[0],
        shape=tuple(dataset.shape[1:]),
        start=None if dataset.chunks else dataset.id.get_offset(),
        stored=dataset.id.get_storage_size(),
        sha256=_read_text(dataset, "sha256"),
    )


def _read_checked(file: h5py.File, name: str, broken: Any) -> npt.NDArray[Any]:
    # They are stored uncompressed: a size beyond the file's is damage, and would cost memory and minutes to find out.
    if file[name].size * file[name].dtype.itemsize > file.id.get_filesize():
        raise broken(f"{name} reaches beyond the end of the file")
    data: npt.NDArray[Any] = file[name][...]
    if digest(data) != _read_text(file[name], "sha256"):
        raise broken(f"{name} is not what was written")
    return data


def _write_text(node: h5py.HLObject, name: str, text: str) -> None:
    data = text.encode()
    node.attrs.create(name, np.bytes_(data), dtype=h5py.string_dtype("utf-8", max(len(data), 1)))


def _read_text(node: h5py.HLObject, name: str) -> str:
    value = node.attrs[name]
    return bytes(value).decode()
