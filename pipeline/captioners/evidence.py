"""What is known of pairs beside their scenes: regions of both dates, and the graph of the training captions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.captioners.regions import Regions
from pipeline.errors import DataError
from pipeline.graphs.tensors import GraphTensors


@dataclass(frozen=True)
class EvidenceWidths:
    """How wide the fields of `Evidence` are: what a model has to know of them before it is built.

    Attributes:
        motion: Width d of the descriptors of motion regions, or C·49 where the captioner makes them of 7×7 grids; None
            where there are none.
        semantics: Width e of the embeddings of semantic regions; None where there are none.
        nodes: Width g of the node features; None where there is no graph.
        relations: Number R of the graph's relations; None where there is no graph.
    """

    motion: int | None = None
    semantics: int | None = None
    nodes: int | None = None
    relations: int | None = None


@dataclass(frozen=True)
class Evidence:
    """What a batch of B pairs brings beside its scenes.

    Attributes:
        motion: Regions without a counterpart at the other date, U_1 and U_2 of equation (10).
        semantics: Regions that text prompts name, of equation (12).
        graph: The caption graph of equations (13) and (14); all pairs share it.

    Raises:
        DataError: Motion and semantic regions are of different numbers of pairs.
    """

    motion: Regions | None = None
    semantics: Regions | None = None
    graph: GraphTensors | None = None

    def __post_init__(self) -> None:
        if self.motion is not None and self.semantics is not None and len(self.motion) != len(self.semantics):
            raise DataError(
                f"motion regions of {len(self.motion)} pairs cannot go with semantic regions of {len(self.semantics)}",
                where="evidence",
                fix="take both from the same pairs",
            )

    @property
    def pairs(self) -> int | None:
        """B; None where nothing but the graph is known."""
        regions = self.semantics if self.motion is None else self.motion
        return None if regions is None else len(regions)

    @property
    def widths(self) -> EvidenceWidths:
        """How wide the fields are."""
        return EvidenceWidths(
            motion=None if self.motion is None else self.motion.features.shape[2],
            semantics=None if self.semantics is None else self.semantics.features.shape[2],
            nodes=None if self.graph is None else self.graph.features.shape[1],
            relations=None if self.graph is None else self.graph.relations,
        )

    def select(self, rows: Tensor) -> Evidence:
        """Return the evidence of pairs `rows`, (M,) integers; a pair may come several times."""
        return Evidence(
            motion=None if self.motion is None else self.motion.select(rows),
            semantics=None if self.semantics is None else self.semantics.select(rows),
            graph=self.graph,
        )

    def thinned(self, share: float) -> Evidence:
        """Return the same without `share` of the regions; see `Regions.thinned`."""
        return Evidence(
            motion=None if self.motion is None else self.motion.thinned(share),
            semantics=None if self.semantics is None else self.semantics.thinned(share),
            graph=self.graph,
        )

    def to(self, device: torch.device) -> Evidence:
        """Return the same on `device`.

        Values are checked before they leave the CPU: on a GPU each check would make the host wait.

        Raises:
            DataError: As in `check_values`.
        """
        if device.type != "cpu":
            self.check_values()
        return Evidence(
            motion=None if self.motion is None else self.motion.to(device),
            semantics=None if self.semantics is None else self.semantics.to(device),
            graph=None if self.graph is None else _graph_to(self.graph, device),
        )

    def check_values(self) -> None:
        """Look for values that no cache should hold, in what lies on the CPU.

        Raises:
            DataError: A value is not finite, or a date or a centroid is out of range.
        """
        for name, regions in (("motion", self.motion), ("semantics", self.semantics)):
            if regions is not None and regions.features.device.type == "cpu":
                regions.check_values(f"evidence.{name}")
        if self.graph is not None and self.graph.features.device.type == "cpu":
            wrong = ~self.graph.features.isfinite().all(1)
            if wrong.any():
                raise DataError(
                    f"node {int(wrong.nonzero()[0])} of the graph has features that are not finite numbers",
                    where="evidence.graph.features",
                    fix="run `sagecc graph`",
                )


def _graph_to(graph: GraphTensors, device: torch.device) -> GraphTensors:
    stated = None if graph.stated is None else graph.stated.to(device)
    features, index, kinds = (x.to(device) for x in (graph.features, graph.edge_index, graph.edge_type))
    return GraphTensors(features, index, kinds, graph.relations, stated)
