"""Inputs of pairs, gathered by position from where they reside: on the device, in host memory, or in the file.

The three residencies have one interface and give the same values; the measured size decides which is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache.columns import not_finite
from pipeline.captioners.inputs import Regions, check_graph
from pipeline.errors import CacheError, OutputError
from pipeline.graph_encoders.tensors import GraphTensors
from pipeline.training.settings import Residency

_CHUNK_BYTES = 64 << 20
# What the inputs may fill of the free memory: the rest is for activations, gradients and other processes.
_SHARE_OF_DEVICE = 0.6
_SHARE_OF_HOST = 0.5

BatchT = TypeVar("BatchT")


class Store(ABC, Generic[BatchT]):
    """One input of P pairs, of which any may be gathered on the device.

    Attributes:
        residency: Where the values are kept.
        nbytes: Their size in bytes.
    """

    residency: Residency
    nbytes: int

    @abstractmethod
    def take(self, rows: NDArray[np.int64]) -> BatchT:
        """Return the input of the pairs at positions `rows` (B,), on the device, in the type it is stored in."""

    @property
    def prefetch(self) -> bool:
        """Whether `take` is slow enough to be done beside the previous step."""
        return self.residency != "device"

    def describe(self) -> str:
        """Return size and residency for the log."""
        where = {"device": "on the device", "host": "in host memory", "file": "in the file"}
        return f"{self.nbytes / 2**20:,.0f} MiB {where[self.residency]}"


def choose_residency(nbytes: int, device: torch.device) -> Residency:
    """Return the fastest residency that has room for `nbytes`: the device, host memory, else the file."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if nbytes <= _SHARE_OF_DEVICE * free:
            return "device"
    fits_host = nbytes <= _SHARE_OF_HOST * psutil.virtual_memory().available
    if device.type == "cuda":
        return "host" if fits_host else "file"
    return "device" if fits_host else "file"


@dataclass(frozen=True)
class PairArray:
    """An input of some pairs as an array in a file.

    Attributes:
        array: (U, 2, …) of all pairs of the file, usually a memory map: features (C, h, w) float16, images (3, H, W)
            uint8 or maps (H, W) uint8 of both dates.
        rows: (P,) int64; pair p is row `rows[p]` of `array`.
        ids: The ids of these pairs, in the same order.
        name: The file, for messages.
    """

    array: NDArray[Any]
    rows: NDArray[np.int64]
    ids: Sequence[str]
    name: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one pair's input, (2, …)."""
        return tuple(self.array.shape[1:])

    @property
    def nbytes(self) -> int:
        """Size of all pairs' inputs in bytes."""
        return len(self) * int(np.prod(self.shape)) * self.array.dtype.itemsize

    def read(self, pairs: NDArray[np.int64] | slice) -> NDArray[Any]:
        """Return the input of `pairs` as a fresh array (B, 2, …).

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
            chunk = slice(start, min(start + size, len(self)))
            yield chunk, self.read(chunk)


class ArrayStore(Store[Tensor]):
    """A `PairArray` of which batches (B, 2, …) are gathered; see its three subclasses."""

    default_residency: ClassVar[Residency]

    def __init__(self, source: PairArray, device: torch.device) -> None:
        self.residency = self.default_residency
        self.nbytes = source.nbytes
        self.device = device
        self._source = source

    def __len__(self) -> int:
        return len(self._source)


class DeviceStore(ArrayStore):
    """One tensor on the device; a batch is one gather and nothing crosses the bus."""

    default_residency = "device"

    def __init__(self, source: PairArray, device: torch.device) -> None:
        super().__init__(source, device)
        self._tensor = _load(source, device)

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """See `Store.take`."""
        return gather(self._tensor, rows)


class HostStore(ArrayStore):
    """One tensor in host memory; batches are gathered into page-locked memory and copied."""

    default_residency = "host"

    def __init__(self, source: PairArray, device: torch.device) -> None:
        super().__init__(source, device)
        self._tensor = _load(source, torch.device("cpu"))
        self._copy = DeviceCopy(device)

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """See `Store.take`."""
        return self._copy(gather(self._tensor, rows))


class FileStore(ArrayStore):
    """Nothing in memory; batches are read from the memory-mapped file and copied."""

    default_residency = "file"

    def __init__(self, source: PairArray, device: torch.device) -> None:
        super().__init__(source, device)
        self._copy = DeviceCopy(device)

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """See `Store.take`."""
        return self._copy(torch.from_numpy(self._source.read(rows)))


_STORES: dict[Residency, type[ArrayStore]] = {"device": DeviceStore, "host": HostStore, "file": FileStore}


def store_array(source: PairArray, device: torch.device, residency: Literal["auto"] | Residency = "auto") -> ArrayStore:
    """Keep `source` where `residency` says, or in the first residency in which it fits.

    Raises:
        CacheError: A value is NaN or infinite; the pair is named. From a file this is noticed when the pair is read.
        OutputError: It does not fit.
    """
    chosen = choose_residency(source.nbytes, device) if residency == "auto" else residency
    try:
        return _STORES[chosen](source, device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutputError(
            f"{source.nbytes / 2**30:.1f} GiB of training inputs do not fit in {chosen} memory",
            where=f"train.data: {residency}",
            fix="set train.data: auto, or file",
        ) from error


@dataclass(frozen=True)
class PackedRegions:
    """Regions of P pairs, one pair's after the other's: memory holds no padding.

    Pairs have very different numbers of regions (in the synthetic world 11 unmatched ones on average, and up to 74), so
    that padded to the longest pair they would take several times as much.

    Attributes:
        regions: Those of all pairs as if of one, (1, R, …).
        counts: (P,) int64 regions of each pair.
    """

    regions: Regions
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, regions: Regions) -> PackedRegions:
        """Pack padded regions (P, N, …)."""
        return cls(regions.map(lambda tensor: tensor[regions.mask][None]), regions.mask.sum(1).cpu().numpy())

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return self.regions.nbytes

    def check_values(self, name: str) -> None:
        """Check the values; see `Regions.check_values`."""
        self.regions.check_values(name, self.counts.tolist())

    def to(self, device: torch.device) -> PackedRegions:
        """Return the same on `device`."""
        return PackedRegions(self.regions.to(device), self.counts)

    def padded(self, pairs: NDArray[np.int64] | None = None) -> Regions:
        """Return the regions of the pairs at positions `pairs` (B,), all by default, padded with zeros to the longest.

        Returns:
            (B, N, …), N the most regions that one of these pairs has.
        """
        chosen = np.arange(len(self)) if pairs is None else pairs
        counts = self.counts[chosen]
        places = np.arange(counts.max(initial=0))
        mask = places < counts[:, None]
        starts = (np.cumsum(self.counts) - self.counts)[chosen]
        rows = np.where(mask, starts[:, None] + places, 0)
        present = torch.from_numpy(mask).to(self.regions.mask.device, non_blocking=True)

        def pad(tensor: Tensor) -> Tensor:
            values = gather(tensor[0], rows.ravel()).view(*rows.shape, *tensor.shape[2:])
            return values.masked_fill_(~present.view(*rows.shape, *(1 for _ in tensor.shape[2:])), 0)

        return self.regions.map(pad)


class RegionStore(Store[Regions]):
    """Regions of P pairs, of which any may be gathered for a step.

    Args:
        regions: On the CPU.
        name: Name of the input, for messages.
        device: Where `take` puts its result.
        residency: They are read whole, so `file` means `host`.

    Raises:
        DataError: A value is not finite, or out of range.
        OutputError: They do not fit.
    """

    def __init__(
        self, regions: PackedRegions, name: str, device: torch.device, residency: Literal["auto"] | Residency = "auto"
    ) -> None:
        regions.check_values(f"inputs.{name}")
        self.nbytes = regions.nbytes
        self.device = device
        chosen = choose_residency(self.nbytes, device) if residency == "auto" else residency
        self.residency = "device" if chosen == "device" or device.type == "cpu" else "host"
        try:
            self._regions = regions.to(device) if self.residency == "device" else regions
        except torch.OutOfMemoryError as error:
            raise OutputError(
                f"{self.nbytes / 2**30:.1f} GiB of regions do not fit in device memory",
                where=f"train.data: {residency}",
                fix="set train.data: auto, or host",
            ) from error

    def __len__(self) -> int:
        return len(self._regions)

    def take(self, rows: NDArray[np.int64]) -> Regions:
        """Return the regions of `rows`, padded to the most regions that one of these pairs has."""
        regions = self._regions.padded(rows)
        if self.residency == "device":
            return regions
        return regions.map(lambda tensor: tensor.pin_memory().to(self.device, non_blocking=True))

    def describe(self) -> str:
        """Return number, size and residency for the log."""
        return f"{int(self._regions.counts.sum()):,} regions, {super().describe()}"


class GraphStore(Store[GraphTensors]):
    """One graph on the device, the same for all pairs."""

    def __init__(self, graph: GraphTensors, device: torch.device) -> None:
        check_graph(graph)
        self.residency = "device"
        tensors = [graph.features, graph.edge_index, graph.edge_type]
        self.nbytes = sum(tensor.nbytes for tensor in tensors)
        features, edge_index, edge_type = (tensor.to(device) for tensor in tensors)
        stated = None if graph.stated is None else graph.stated.to(device)
        self._graph = GraphTensors(features, edge_index, edge_type, graph.relations, stated)

    def take(self, rows: NDArray[np.int64]) -> GraphTensors:
        """Return the graph."""
        return self._graph

    def describe(self) -> str:
        """Return the number of nodes for the log."""
        return f"{self._graph.nodes} nodes"


def gather(tensor: Tensor, rows: NDArray[np.int64]) -> Tensor:
    """Return the rows of `tensor` at positions `rows`, on its device."""
    if tensor.device.type == "cpu":
        # NumPy copies whole rows; for half precision torch goes element by element and takes many times as long.
        return torch.from_numpy(tensor.numpy()[rows])
    return tensor.index_select(0, torch.from_numpy(rows).to(tensor.device, non_blocking=True))


def _load(source: PairArray, device: torch.device) -> Tensor:
    dtype = torch.from_numpy(np.empty(0, dtype=source.array.dtype)).dtype
    tensor = torch.empty((len(source), *source.shape), dtype=dtype, device=device)
    for chunk, values in source.chunks():
        tensor[chunk].copy_(torch.from_numpy(values))
    return tensor


class DeviceCopy:
    """Copies batches to the device, and waits for it in the thread that reads ahead of the step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)

    def __call__(self, batch: Tensor) -> Tensor:
        """Return `batch` on the device."""
        if self._stream is None:
            return batch
        with torch.cuda.stream(self._stream):
            copied = batch.pin_memory().to(self._device, non_blocking=True)
        self._stream.synchronize()
        # The step uses the batch on its own stream; until then the memory may not be given to the next batch.
        copied.record_stream(torch.cuda.default_stream(self._device))
        return copied
