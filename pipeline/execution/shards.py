"""Shards: files of finished results, several items each, which a later run finds again by content key."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from pipeline.errors import CacheError
from pipeline.execution.failures import Failure
from pipeline.files import atomic_path, content_key, list_files, remove_dead
from pipeline.system_errors import output_error, reading

_SUFFIX = ".safetensors"
_LARGEST_HEADER = 100_000_000
_DTYPES = {
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I8": "|i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "|u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
}
"""The names safetensors gives to the types that a cache may hold."""
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, struct.error)
"""What the content of a damaged shard raises; an OSError is a failed read, after which nothing is known of it."""


@dataclass(frozen=True)
class _Array:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class _Entry:
    shard: Path
    checksum: int
    arrays: Mapping[str, _Array]


def write_shard(folder: Path, results: Mapping[str, Mapping[str, npt.NDArray[Any]]], prefix: str = "") -> str:
    """Write the results of several items, by key, as one file, whole or not at all.

    Args:
        folder: Folder of the file.
        results: Arrays by name, by key of the item.
        prefix: Prefix of the file's name, for `find_shards`.

    Returns:
        The file's name within `folder`.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
        ValueError: An array has a type that no cache may hold.
    """
    tensors, checksums = {}, []
    for index, (key, arrays) in enumerate(results.items()):
        ordered = {name: np.array(arrays[name], order="C", copy=None) for name in sorted(arrays)}
        for name, array in ordered.items():
            if array.dtype.str not in _DTYPES.values():
                raise ValueError(f"array {name} of item {key} is {array.dtype}, which no cache may hold")
            tensors[f"{index}/{name}"] = array
        checksums.append(_checksum(list(ordered.values())))
    metadata = {"keys": json.dumps(list(results)), "checksums": json.dumps(checksums)}
    name = prefix + content_key(list(results))[:32] + _SUFFIX
    with atomic_path(folder / name) as temporary:
        temporary.write_bytes(save(tensors, metadata))
    return name


def find_shards(folder: Path, prefix: str) -> Iterator[tuple[str, list[str]]]:
    """Yield name and keys of each whole shard in `folder` whose name begins with `prefix`.

    Raises:
        UnreadableError: The folder or a shard cannot be read.
    """
    for path in list_files(folder, f"{prefix}*{_SUFFIX}"):
        try:
            yield path.name, list(_read_header(path))
        except (FileNotFoundError, *_DAMAGED):
            continue


class ShardStore:
    """Finished results in a work folder, by content key.

    Attributes:
        failures: Why items have no result, by key.
    """

    def __init__(self, folder: Path) -> None:
        self.failures: dict[str, Failure] = {}
        self._folder = folder
        self._entries: dict[str, _Entry] = {}

    @classmethod
    def scan(cls, folder: Path) -> tuple[ShardStore, int]:
        """Return the results of earlier runs; only headers are read.

        Shards that were read and are damaged are removed, and so are leftovers of unfinished writing.

        Returns:
            The store, and how many damaged shards were removed.

        Raises:
            OutputError: A damaged shard cannot be removed.
            UnreadableError: The folder or a shard cannot be read; that shard stays.
        """
        store, dropped = cls(folder), 0
        for leftover in list_files(folder, f".*{_SUFFIX}.*.partial"):
            remove_dead(leftover)
        for path in list_files(folder, f"*{_SUFFIX}"):
            try:
                store.add(path.name)
            except CacheError:
                _remove(path)
                dropped += 1
        return store, dropped

    def add(self, name: str) -> None:
        """Add the shard called `name`.

        Raises:
            CacheError: It is damaged or gone.
            UnreadableError: It cannot be read.
        """
        path = self._folder / name
        try:
            self._entries.update(_read_header(path))
        except (FileNotFoundError, *_DAMAGED) as error:
            raise CacheError("a shard is damaged or gone", where=path, fix="run the same command again") from error

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def shapes(self, key: str) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array of an item, without reading it."""
        return {name: array.shape for name, array in self._entries[key].arrays.items()}

    def lengths(self, key: str) -> dict[str, int]:
        """Return the number of rows of each array of an item, without reading it; arrays without axes are left out."""
        return {name: shape[0] for name, shape in self.shapes(key).items() if shape}

    def read(self, key: str) -> dict[str, npt.NDArray[Any]]:
        """Read the arrays of one item.

        Raises:
            CacheError: The shard is damaged or gone. A damaged one is removed, so that the next run computes its items
                again.
            OutputError: A damaged one cannot be removed.
            UnreadableError: It cannot be read; it stays.
        """
        entry = self._entries[key]
        try:
            with reading(entry.shard), entry.shard.open("rb") as stream:
                arrays = {name: _read_array(stream, array) for name, array in entry.arrays.items()}
            if _checksum([arrays[name] for name in sorted(arrays)]) != entry.checksum:
                raise ValueError("another checksum")
        except FileNotFoundError as error:
            raise CacheError("a shard is gone", where=entry.shard, fix="run the same command again") from error
        except ValueError as error:
            _remove(entry.shard)
            raise CacheError("a shard is damaged", where=entry.shard, fix="run the same command again") from error
        return arrays


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(error, path) from error


def _read_header(path: Path) -> dict[str, _Entry]:
    """Read the header of a safetensors file: its length in 8 bytes, JSON, then the data.

    It is read here rather than by the library because shapes and positions of all items are needed at once, fast.
    """
    with reading(path), path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > _LARGEST_HEADER:
            raise ValueError("no header")
        header = json.loads(stream.read(length))
        size = stream.seek(0, 2)
    metadata = header.pop("__metadata__")
    start = 8 + length
    arrays: dict[int, dict[str, _Array]] = {}
    end = 0
    for name, entry in header.items():
        index, _, field = name.partition("/")
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        first, last = entry["data_offsets"]
        if last - first != math.prod(shape) * dtype.itemsize or first < 0:
            raise ValueError(f"{name} has another size than its shape")
        arrays.setdefault(int(index), {})[field] = _Array(dtype, shape, start + first, start + last)
        end = max(end, last)
    if size != start + end:
        raise ValueError("truncated")
    keys, checksums = json.loads(metadata["keys"]), json.loads(metadata["checksums"])
    return {
        key: _Entry(path, checksum, arrays.get(index, {}))
        for index, (key, checksum) in enumerate(zip(keys, checksums, strict=True))
    }


def _read_array(stream: Any, array: _Array) -> npt.NDArray[Any]:
    if array.start == array.stop:
        return np.empty(array.shape, array.dtype)
    stream.seek(array.start)
    return np.frombuffer(stream.read(array.stop - array.start), array.dtype).reshape(array.shape)


def _checksum(arrays: list[npt.NDArray[Any]]) -> int:
    value = 0
    for array in arrays:
        if array.size:
            value = zlib.crc32(array.reshape(-1).view(np.uint8).data, value)
    return value
