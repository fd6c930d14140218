"""R-GCN's layer as one product for all relations instead of one per relation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.nn import RGCNConv


class RelationalLayer(RGCNConv):  # type: ignore[misc]  # the library carries no types
    """`torch_geometric.nn.RGCNConv` with its parameters and its result, computed without a loop over relations.

    With E edges, B bases V_b and coefficients a_rb (without bases: B = R, V_r = W_r and a the identity),
    Σ_r Σ_{j ∈ N_i^r} W_r h_j / c_ir = Σ_b (A_b H)_i V_b where (A_b)_ij = Σ_{edges j → i of type r} a_rb / c_ir.
    Graphs of captions have some hundred nodes at most, so the A_b are small.
    """

    def forward(self, states: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        """Return the new states (N, out) of nodes with states (N, in); messages flow from head to tail."""
        nodes = len(states)
        heads, tails = edge_index
        groups = edge_type * nodes + tails
        sizes = torch.bincount(groups, minlength=self.num_relations * nodes)
        shares = 1 / sizes[groups].to(states.dtype)
        weight = self.weight
        if self.num_bases is None:
            table = states.new_zeros(self.num_relations * nodes * nodes)
            table = table.index_add(0, groups * nodes + heads, shares).view(-1, nodes, nodes)
        else:
            table = states.new_zeros(nodes * nodes, len(weight))
            table = table.index_add(0, tails * nodes + heads, shares[:, None] * self.comp[edge_type])
            table = table.T.reshape(-1, nodes, nodes)
        out = torch.bmm(table @ states, weight).sum(0)
        new: Tensor = out + states @ self.root + self.bias
        return new
