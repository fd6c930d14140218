"""Random ragged reads through the cache against group-per-image HDF5, a memory map by hand, and plain RAM.

The content is like the region features of LEVIR-CC: 20 to 100 rows of 256 half-precision numbers an image. Every side
answers the same random batches of 64 images with the same thing: one flat copy of their rows, and their lengths. All
files are in the page cache, as they are after the first epoch.

- cache: `Cache.rows`.
- group_kept: one HDF5 group per image (the layout of hloc), the file kept open.
- group_reopened: the same file, opened for every image, as hloc does.
- memory_map: the same flat data in a file of its own, mapped with NumPy and read by hand-written slices.
- ram: the same slices from an array in memory.

`vs_group_per_image` is taken against the faster of the two, the file kept open.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from benchmarks.harness import Figures, interleaved, rate
from pipeline.cache.reader import Cache
from pipeline.cache.schema import Field, Provenance, Schema
from pipeline.cache.writer import pack

BARS = {"vs_group_per_image": 25.0, "vs_memory_map": 0.7}

_WIDTH, _BATCH = 256, 64
_SCHEMA = Schema("regions", 1, "pair", (Field("features", "float16", (_WIDTH,), "offsets"),))

Read = Callable[[npt.NDArray[np.int64]], tuple[npt.NDArray[Any], npt.NDArray[np.int64]]]


class _Images:
    """Random features of ragged length, as the units of a cache."""

    def __init__(self, count: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.counts = random.integers(20, 101, count)
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)])
        self.flat = random.standard_normal((int(self.offsets[-1]), _WIDTH), dtype=np.float32).astype(np.float16)

    def __len__(self) -> int:
        return len(self.counts)

    def lengths(self, unit: int) -> Mapping[str, int]:
        return {"offsets": int(self.counts[unit])}

    def read(self, unit: int) -> Mapping[str, npt.NDArray[Any]]:
        return {"features": self.flat[self.offsets[unit] : self.offsets[unit + 1]]}


def run(quick: bool) -> Figures:
    return measure(images=1500, batches=100, rounds=5) if quick else measure(images=6000, batches=400, rounds=9)


def measure(*, images: int, batches: int, rounds: int) -> Figures:
    content = _Images(images, seed=0)
    names = [f"image_{unit:06}.png" for unit in range(images)]
    batch_units = np.random.default_rng(1).integers(0, images, (batches, _BATCH))
    with tempfile.TemporaryDirectory() as folder:
        path, groups, flat = (Path(folder) / name for name in ("cache.h5", "groups.h5", "flat.bin"))
        pack(path, _SCHEMA, Provenance("regions", 1, {}, ""), names, content)
        _write_groups(groups, names, content)
        content.flat.tofile(flat)
        mapped = np.asarray(np.memmap(flat, np.float16, "r").reshape(-1, _WIDTH))
        with Cache.open(path, _SCHEMA) as cache, h5py.File(groups, "r") as file:
            reads: dict[str, Read] = {
                "cache": lambda units: cache.rows("features", units),
                "group_kept": lambda units: _joined([file[names[unit]]["features"][()] for unit in units]),
                "group_reopened": lambda units: _joined([_reopened(groups, names[unit]) for unit in units]),
                "memory_map": lambda units: _sliced(mapped, content.offsets, units),
                "ram": lambda units: _sliced(content.flat, content.offsets, units),
            }
            _check_equal(reads, batch_units[0])
            # The slow sides get fewer batches, so that a round of theirs takes no longer than need be.
            share = {"group_kept": 8, "group_reopened": 16}
            sides = {
                name: _side(read, batch_units[: -(-batches // share.get(name, 1))]) for name, read in reads.items()
            }
            measured = interleaved(sides, rounds)
    return {
        **{f"{name}_images_per_s": measured.median(name) for name in reads},
        **measured.ratio("cache", "group_kept").figures("vs_group_per_image"),
        **measured.ratio("cache", "group_reopened").figures("vs_group_reopened"),
        **measured.ratio("cache", "memory_map").figures("vs_memory_map"),
        **measured.ratio("cache", "ram").figures("vs_ram"),
    }


def _write_groups(path: Path, names: list[str], content: _Images) -> None:
    with h5py.File(path, "w") as file:
        for unit, name in enumerate(names):
            file.create_group(name).create_dataset("features", data=content.read(unit)["features"])


def _reopened(path: Path, name: str) -> npt.NDArray[Any]:
    with h5py.File(path, "r") as file:
        rows: npt.NDArray[Any] = file[name]["features"][()]
        return rows


def _joined(arrays: list[npt.NDArray[Any]]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    return np.concatenate(arrays), np.array([len(array) for array in arrays])


def _sliced(
    flat: npt.NDArray[Any], offsets: npt.NDArray[np.int64], units: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    starts, ends = offsets[units], offsets[units + 1]
    return np.concatenate([flat[start:end] for start, end in zip(starts, ends, strict=True)]), ends - starts


def _check_equal(reads: Mapping[str, Read], units: npt.NDArray[np.int64]) -> None:
    expected, lengths = reads["ram"](units)
    for name, read in reads.items():
        values, counts = read(units)
        if values.tobytes() != expected.tobytes() or counts.tolist() != lengths.tolist():
            raise ValueError(f"side {name} reads something else than the others")


def _side(read: Read, batches: npt.NDArray[np.int64]) -> Callable[[], float]:
    def work() -> None:
        for units in batches:
            read(units)

    return rate(work, batches.size)
