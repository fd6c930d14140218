"""How often a node stands in a place, as a score: what the number of messages says and their mean forgets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.graphs.tensors import GraphTensors

_COUNTS = 4


class Popularity(nn.Module):
    """The score Σ_k w_k log(1 + n_k) of a node as the tail, or as the head, of a relation.

    n_1 is the number of edges of the relation that end, or begin, at the node, n_2 that of any relation's edges; n_3
    and n_4 are the same sums of log(1 + times stated). Equation (15) takes means over neighbours, which do not tell one
    neighbour from twenty, and DistMult can learn such counts only node by node.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((2, _COUNTS), 0.5))

    def forward(self, visible: GraphTensors, tails: bool) -> Tensor:
        """Return the scores (R, N) of all nodes in the place of the tail, or of the head, given the visible edges."""
        ends = visible.edge_index[1 if tails else 0]
        places = visible.edge_type * visible.nodes + ends
        ones = torch.ones(len(places))
        stated = ones if visible.stated is None else visible.stated.float()
        counts = []
        for values in (ones, stated.log1p()):
            table = torch.zeros(visible.relations * visible.nodes).index_add(0, places, values)
            table = table.view(visible.relations, visible.nodes)
            counts += [table, table.sum(0).expand_as(table)]
        return torch.stack(counts, dim=-1).log1p() @ self.weights[0 if tails else 1]
