"""The evidence of pairs, gathered by position from where it lies: on the device or in host memory."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.captioners.evidence import Evidence
from pipeline.captioners.regions import Regions
from pipeline.errors import OutputError
from pipeline.training.places import choose_place
from pipeline.training.settings import Place


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
