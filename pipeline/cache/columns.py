"""Fields as columns of an HDF5 file: writing them in blocks, and checking what was written."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.cache.layout import Header, stored_dtype, write_digest
from pipeline.cache.schema import Field
from pipeline.errors import CacheError, DataError

_T = TypeVar("_T")


class DeferredErrorFile:
    """File object that defers write errors, because HDF5 crashes on ENOSPC.

    HDF5 cannot close a file whose writes fail: on a full disk it leaks the descriptor, raises errors without a number,
    and crashes the interpreter at its exit. So the first failure is stored, and later writes do nothing but report
    success; the caller calls `check` after every block, which raises it. A KeyboardInterrupt that arrives inside a
    write is treated the same.

    Offers what h5py asks of a file object; see "Python file-like objects" in its manual.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self._raw = FileIO(path, mode)
        self._failure: BaseException | None = None

    def __enter__(self) -> DeferredErrorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def check(self) -> None:
        """Raise the first failure, if there was one; an OSError with its number."""
        if self._failure is not None:
            raise self._failure

    def write(self, data: memoryview) -> int:
        """Write all of `data` at the present position."""
        view = memoryview(data).cast("B")
        return self._try(lambda: self._write_all(view), len(view))

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file."""
        return self._try(lambda: self._raw.truncate(size), size or 0)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` from the present position."""
        return self._raw.readinto(buffer)

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        return self._raw.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._raw.tell()

    def flush(self) -> None:
        """Do nothing: nothing is buffered here, and `pipeline.files.atomic_path` flushes to disk."""

    def _write_all(self, view: memoryview) -> int:
        done = 0
        while done < len(view):
            done += self._raw.write(view[done:])
        return done

    def _try(self, action: Callable[[], _T], pretended: _T) -> _T:
        if self._failure is not None:
            return pretended
        try:
            return action()
        except BaseException as failure:  # KeyboardInterrupt too; `check` raises it
            self._failure = failure
            return pretended


_BLOCK = 8 << 20
"""Bytes gathered per field before they are written, or read at a time."""
_CHUNK = 256 << 10
"""Bytes of a compressed chunk before compression; part of the format, since it decides the bytes."""


def row_bytes(field: Field) -> int:
    """Return the bytes of one uncompressed row of a field whose shape is decided."""
    return int(np.dtype(field.dtype).itemsize * np.prod(field.row_shape, dtype=np.int64))


def chunk_rows(field: Field, rows: int) -> int:
    """Return how many rows a compressed chunk holds."""
    return max(1, min(rows, _CHUNK // max(row_bytes(field), 1)))


class ColumnWriter:
    """Writer of one field's rows, in order and in blocks.

    Args:
        dataset: The field's data set, of its final shape.
        field: The field, its shape decided.
        file: The file that `dataset` lies in; its errors are raised after each block.
    """

    def __init__(self, dataset: h5py.Dataset, field: Field, file: DeferredErrorFile) -> None:
        self.field = field
        self._dataset = dataset
        self._file = file
        self._dtype = stored_dtype(field)
        self._digest = hashlib.sha256()
        # A compressed chunk is written exactly once, as a whole: the order of chunks in the file then does not depend
        # on the size of blocks.
        block = dataset.chunks[0] if dataset.chunks else max(1, _BLOCK // max(row_bytes(field), 1))
        self._block = np.empty((min(block, dataset.shape[0]), *field.row_shape), self._dtype)
        self._filled = 0
        self._written = 0

    def append(self, values: npt.NDArray[Any], rows: int | None, label: str) -> None:
        """Add the rows of one unit: `rows` of them, or for a dense field (None) a single row.

        Raises:
            DataError: A floating-point value is not finite; `label` says whose.
            ValueError: Shape or type are not the field's.
        """
        expected = self.field.row_shape if rows is None else (rows, *self.field.row_shape)
        if values.shape != expected or values.dtype != self._dtype:
            raise ValueError(
                f"field {self.field.name}, {label}: {values.dtype}{list(values.shape)} "
                f"instead of {self._dtype}{list(expected)}"
            )
        if not_finite(values[None]).any():
            raise DataError(
                f"field {self.field.name} holds a value that is not finite",
                where=label,
                fix="look at this item's input; a half-precision field may have overflowed",
            )
        self._add(values[None] if rows is None else values)

    def append_missing(self) -> None:
        """Add a skipped unit: a row of zeros to a dense field, nothing to a ragged one."""
        if self.field.offsets is None:
            self._add(np.zeros((1, *self.field.row_shape), self._dtype))

    def finish(self) -> None:
        """Write the last block, and the digest of the whole."""
        self._flush()
        if self._written != self._dataset.shape[0]:
            raise ValueError(f"field {self.field.name}: {self._written} rows instead of {self._dataset.shape[0]}")
        write_digest(self._dataset, self._digest.hexdigest())

    def _add(self, values: npt.NDArray[Any]) -> None:
        while len(values):
            count = min(len(values), len(self._block) - self._filled)
            self._block[self._filled : self._filled + count] = values[:count]
            self._filled += count
            values = values[count:]
            if self._filled == len(self._block):
                self._flush()

    def _flush(self) -> None:
        block = self._block[: self._filled]
        if block.size:
            self._dataset[self._written : self._written + self._filled] = block
            self._digest.update(block.view(np.uint8).data)
            self._file.check()
        self._written += self._filled
        self._filled = 0


def not_finite(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return for each row of `values` (B, …) whether it holds NaN or infinity, (B,)."""
    if values.dtype.kind != "f":
        return np.zeros(len(values), dtype=np.bool_)
    flat = np.ascontiguousarray(values).reshape(len(values), math.prod(values.shape[1:]))
    if values.dtype.itemsize == 2:
        # NumPy's isfinite is eight times slower on half precision: NaN and infinity are those with exponent 31.
        bad: npt.NDArray[np.bool_] = ((flat.view("<u2") & 0x7C00) == 0x7C00).any(axis=1)
        return bad
    return np.asarray(~np.isfinite(flat).all(axis=1))


def check_data(file: h5py.File, header: Header, path: Path, fix: str) -> None:
    """Read every field through and compare it with the digest that was written beside it.

    Raises:
        CacheError: A field holds other bytes than were written.
    """
    for field in header.schema.fields:
        dataset, digest = file[field.name], hashlib.sha256()
        step = dataset.chunks[0] if dataset.chunks else max(1, _BLOCK // max(row_bytes(field), 1))
        for start in range(0, dataset.shape[0], step):
            block = np.ascontiguousarray(dataset[start : start + step])
            if block.size:
                digest.update(block.view(np.uint8).data)
        if digest.hexdigest() != header.extents[field.name].sha256:
            raise CacheError(f"the cache is damaged: {field.name} is not what was written", where=path, fix=fix)
