"""Caption graph as tensors; free of PyTorch Geometric, which takes seconds to import."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.caption_graph.store import GraphArrays


@dataclass(frozen=True)
class GraphTensors:
    """A graph of N nodes, E edges and R relations (equations 13 and 14).

    Attributes:
        features: (N, D) float32, node features.
        edge_index: (2, E) int64, head and tail of every edge: A_conn.
        edge_type: (E,) int64, its relation: A_type.
        relations: R; relations without an edge count.
        stated: (E,) int64, how often each edge's triple is stated; None: once.
    """

    features: Tensor
    edge_index: Tensor
    edge_type: Tensor
    relations: int
    stated: Tensor | None = None

    def __post_init__(self) -> None:
        nodes, edges = self.features.shape[0], self.edge_type.shape[0]
        if self.features.ndim != 2 or nodes < 1:
            raise ValueError(f"features must be (N, D) with a node at least, not {tuple(self.features.shape)}")
        if self.edge_index.shape != (2, edges) or self.edge_type.ndim != 1:
            raise ValueError(f"edge_index {tuple(self.edge_index.shape)} does not fit {edges} edge types")
        if self.stated is not None and self.stated.shape != (edges,):
            raise ValueError(f"{tuple(self.stated.shape)} counts do not fit {edges} edges")
        # Reading values would synchronise with a GPU; tensors there were checked on the CPU before.
        if not edges or self.edge_index.device.type != "cpu":
            return
        if not (int(self.edge_index.min()) >= 0 and int(self.edge_index.max()) < nodes):
            raise ValueError(f"an edge names a node outside 0 to {nodes - 1}")
        if not (int(self.edge_type.min()) >= 0 and int(self.edge_type.max()) < self.relations):
            raise ValueError(f"an edge names a relation outside 0 to {self.relations - 1}")

    @property
    def nodes(self) -> int:
        """N."""
        return self.features.shape[0]

    @property
    def triples(self) -> Tensor:
        """(E, 3) int64: head, relation, tail."""
        return torch.stack([self.edge_index[0], self.edge_type, self.edge_index[1]], dim=1)

    def with_edges(self, chosen: Tensor | slice) -> GraphTensors:
        """Return the graph with the selected edges only: a mask (E,), positions, or a slice."""
        stated = None if self.stated is None else self.stated[chosen]
        return replace(self, edge_index=self.edge_index[:, chosen], edge_type=self.edge_type[chosen], stated=stated)

    def with_inverses(self) -> GraphTensors:
        """Return the graph with the inverse of every edge of relation r added under relation R + r."""
        return GraphTensors(
            self.features,
            torch.cat([self.edge_index, self.edge_index.flip(0)], dim=1),
            torch.cat([self.edge_type, self.edge_type + self.relations]),
            2 * self.relations,
            None if self.stated is None else self.stated.repeat(2),
        )


def tensors_of(arrays: GraphArrays) -> GraphTensors:
    """Convert the arrays of graph.h5 to tensors."""
    return GraphTensors(
        torch.from_numpy(arrays.features),
        torch.from_numpy(arrays.edge_index),
        torch.from_numpy(arrays.edge_type),
        arrays.relations,
        torch.from_numpy(arrays.edge_count),
    )
