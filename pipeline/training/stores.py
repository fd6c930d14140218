"""The evidence of pairs, gathered by position from where it lies: on the device or in host memory.

The inputs of pairs, gathered by position from where they lie: on the device, in host memory, or in the file.

The three places share one interface and give the same values; the measured size decides which is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.captioners.inputs import Evidence, Regions
from pipeline.errors import CacheError, OutputError
from pipeline.training.settings import Place

_CHUNK_BYTES = 64 << 20
# What a place may fill of the memory that is free: the rest is for activations, gradients and whoever else computes.
_SHARE_OF_DEVICE = 0.6
_SHARE_OF_HOST = 0.5
_HALF_EXPONENT = np.uint16(0x7C00)


@dataclass(frozen=True)
class PairSource:
    """The inputs of some pairs as they lie in a file.

    Attributes:
        array: (U, 2, …) of all pairs of the file, usually a memory map: features (C, h, w) float16 or images
            (3, H, W) uint8 of both dates.
        rows: (P,) int64; pair p of this source is row `rows[p]` of `array`.
        ids: The ids of these pairs, in the same order.
        name: What the file is, for messages.
    """

    array: NDArray[Any]
    rows: NDArray[np.int64]
    ids: Sequence[str]
    name: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one pair's inputs, (2, …)."""
        return tuple(self.array.shape[1:])

    @property
    def nbytes(self) -> int:
        """Size of all pairs' inputs in bytes."""
        return len(self) * int(np.prod(self.shape)) * self.array.dtype.itemsize

    def read(self, pairs: NDArray[np.int64] | slice) -> NDArray[Any]:
        """Return the inputs of `pairs` as a fresh array (B, 2, …).

        Raises:
            CacheError: A value is NaN or infinite; the pair is named.
        """
        rows = self.rows[pairs]
        values = np.ascontiguousarray(self.array[rows])
        bad = not_finite(values)
        if bad.any():
            pair = self.ids[int(np.arange(len(self))[pairs][bad.argmax()])]
            raise CacheError(
                f"the features of pair {pair!r} hold NaN or infinity",
                where=self.name,
                fix="look at the pair's images with `sagecc inspect`, then run `sagecc scenes` again",
            )
        return values

    def chunks(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield all pairs in order, some tens of megabytes at a time."""
        size = max(1, _CHUNK_BYTES * len(self) // max(1, self.nbytes))
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            yield part, self.read(part)


def not_finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell for each row of `values` (B, …) whether it holds NaN or infinity."""
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    if values.dtype == np.float16:
        # An exponent of all ones; tenfold faster than numpy's isfinite, which has no half-precision loop of its own.
        bad: NDArray[np.bool_] = ((flat.view(np.uint16) & _HALF_EXPONENT) == _HALF_EXPONENT).any(axis=1)
        return bad
    if np.issubdtype(values.dtype, np.floating):
        return np.asarray(~np.isfinite(flat).all(axis=1))
    return np.zeros(len(values), dtype=bool)


class PairStore(ABC):
    """Inputs of P pairs, of which any may be gathered into one tensor on the device.

    Attributes:
        place: Where they lie.
        device: Where `take` puts them.
    """

    place: Place

    def __init__(self, source: PairSource, device: torch.device) -> None:
        self.device = device
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    @abstractmethod
    def take(self, pairs: NDArray[np.int64]) -> Tensor:
        """Return the inputs (B, 2, …) of `pairs` (B,), on the device, in the type they are stored in."""

    @property
    def prefetch(self) -> bool:
        """Whether `take` takes long enough to be done beside the previous step."""
        return True


class DeviceStore(PairStore):
    """One tensor on the device; a batch is one gather and nothing crosses the bus."""

    place = "device"

    def __init__(self, source: PairSource, device: torch.device) -> None:
        super().__init__(source, device)
        self._tensor = _fill(source, torch.empty((len(source), *source.shape), dtype=_dtype(source), device=device))

    def take(self, pairs: NDArray[np.int64]) -> Tensor:
        """See `PairStore.take`."""
        return _gather(self._tensor, pairs)

    @property
    def prefetch(self) -> bool:
        """See `PairStore.prefetch`."""
        return False


class HostStore(PairStore):
    """One tensor in host memory; batches are gathered into page-locked memory and copied."""

    place = "host"

    def __init__(self, source: PairSource, device: torch.device) -> None:
        super().__init__(source, device)
        self._tensor = _fill(source, torch.empty((len(source), *source.shape), dtype=_dtype(source)))
        self._move = _Mover(device)

    def take(self, pairs: NDArray[np.int64]) -> Tensor:
        """See `PairStore.take`."""
        return self._move(_gather(self._tensor, pairs))


class FileStore(PairStore):
    """Nothing in memory; batches are read from the memory-mapped file and copied."""

    place = "file"

    def __init__(self, source: PairSource, device: torch.device) -> None:
        super().__init__(source, device)
        self._move = _Mover(device)

    def take(self, pairs: NDArray[np.int64]) -> Tensor:
        """See `PairStore.take`."""
        return self._move(torch.from_numpy(self._source.read(pairs)))


_STORES: dict[Place, type[PairStore]] = {"device": DeviceStore, "host": HostStore, "file": FileStore}


def open_store(source: PairSource, device: torch.device, place: Literal["auto"] | Place = "auto") -> PairStore:
    """Put the inputs of `source` in `place`, or in the first place in which they fit.

    Raises:
        CacheError: A value is NaN or infinite; the pair is named. From a file this is noticed when the pair is read.
        OutputError: They do not fit in the place that was asked for.
    """
    chosen = choose_place(source.nbytes, device) if place == "auto" else place
    try:
        return _STORES[chosen](source, device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutputError(
            f"{source.nbytes / 2**30:.1f} GiB of training inputs do not fit in {chosen} memory",
            where=f"train.data: {place}",
            fix="set train.data: auto, or file",
        ) from error


def choose_place(nbytes: int, device: torch.device) -> Place:
    """Return the fastest place that has room for `nbytes`: the device, host memory, else the file."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if nbytes <= _SHARE_OF_DEVICE * free:
            return "device"
    fits_host = nbytes <= _SHARE_OF_HOST * psutil.virtual_memory().available
    if device.type == "cuda":
        return "host" if fits_host else "file"
    return "device" if fits_host else "file"


def _gather(tensor: Tensor, pairs: NDArray[np.int64]) -> Tensor:
    """Return the rows `pairs` of `tensor`, on its device."""
    if tensor.device.type == "cpu":
        # NumPy copies whole rows; for half precision torch goes element by element and takes many times as long.
        return torch.from_numpy(tensor.numpy()[pairs])
    return tensor.index_select(0, torch.from_numpy(pairs).to(tensor.device, non_blocking=True))


def _dtype(source: PairSource) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype=source.array.dtype)).dtype


def _fill(source: PairSource, tensor: Tensor) -> Tensor:
    for part, values in source.chunks():
        tensor[part].copy_(torch.from_numpy(values))
    return tensor


class _Mover:
    """Copies batches to the device, and waits for it in the thread that reads ahead of the step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)

    def __call__(self, batch: Tensor) -> Tensor:
        if self._stream is None:
            return batch
        with torch.cuda.stream(self._stream):
            moved = batch.pin_memory().to(self._device, non_blocking=True)
        self._stream.synchronize()
        # The step uses the batch on its own stream; until then the memory may not be given to the next batch.
        moved.record_stream(torch.cuda.default_stream(self._device))
        return moved


class EvidenceStore:
    """Evidence of P pairs, of which any may be gathered for a step. The graph always lies on the device.

    Args:
        evidence: On the CPU, the regions of each pair in front of what pads; see `Regions.padded`.
        device: Where `take` puts what it gathers.
        place: Where the regions lie; auto: on the device where they fit. They are read whole, so file means host.

    Attributes:
        place: Where they lie.
        prefetch: Whether `take` takes long enough to be done beside the previous step.
        nbytes: Size of the regions in bytes, padding included.

    Raises:
        DataError: Evidence holds what is no number.
        OutputError: It does not fit where it is asked for.
    """

    def __init__(self, evidence: Evidence, device: torch.device, place: Literal["auto"] | Place = "auto") -> None:
        self.device = device
        parts = {"motion": evidence.motion, "semantics": evidence.semantics}
        given = {name: regions for name, regions in parts.items() if regions is not None}
        self.nbytes = sum(regions.nbytes for regions in given.values())
        self._counts = {name: regions.mask.sum(1).numpy() for name, regions in given.items()}
        chosen = choose_place(self.nbytes, device) if place == "auto" else place
        self.place: Literal["device", "host"] = "device" if chosen == "device" or device.type == "cpu" else "host"
        self.prefetch = self.place == "host"
        evidence.check_values()
        try:
            self._graph = Evidence(graph=evidence.graph).to(device).graph
            self._regions = {
                name: regions.to(device) if self.place == "device" else regions for name, regions in given.items()
            }
        except torch.OutOfMemoryError as error:
            raise OutputError(
                f"{self.nbytes / 2**30:.1f} GiB of regions do not fit in device memory",
                where=f"train.data: {place}",
                fix="set train.data: auto, or host",
            ) from error

    def __str__(self) -> str:
        kinds = {"motion": "motion regions", "semantics": "semantic regions"}
        parts = [f"{int(counts.sum()):,} {kinds[name]}" for name, counts in self._counts.items()]
        if parts:
            where = f"on the device ({self.device.type})" if self.place == "device" else "in host memory"
            parts[-1] += f", {self.nbytes / 2**20:,.0f} MiB {where}"
        if self._graph is not None:
            parts.append(f"a graph of {self._graph.nodes} nodes")
        return ", ".join(parts)

    def take(self, pairs: NDArray[np.int64]) -> Evidence:
        """Return the evidence of `pairs` (B,), on the device, padded to the most regions that one of them has."""
        rows = None
        if self.place == "device" and self.device.type != "cpu":
            rows = torch.from_numpy(pairs).to(self.device, non_blocking=True)

        def gather(tensor: Tensor) -> Tensor:
            if rows is not None:
                return tensor.index_select(0, rows)
            # NumPy copies whole rows; for half precision torch goes element by element.
            found = torch.from_numpy(tensor.numpy()[pairs])
            return found if self.device.type == "cpu" else found.pin_memory().to(self.device, non_blocking=True)

        def part(name: str) -> Regions | None:
            if name not in self._regions:
                return None
            width = int(self._counts[name][pairs].max())
            return self._regions[name].map(lambda tensor: gather(tensor[:, :width]))

        return Evidence(motion=part("motion"), semantics=part("semantics"), graph=self._graph)
