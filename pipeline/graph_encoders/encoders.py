"""Graph encoders of Table 7 with PyTorch Geometric, and their readout (equations 15 and 16)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric import nn as pyg
from torch_geometric.nn import RGCNConv
from torch_geometric.utils import degree

from pipeline.graph_encoders.settings import GraphEncoderSettings
from pipeline.graph_encoders.tensors import GraphTensors


class RelationalLayer(RGCNConv):  # type: ignore[misc]  # the library carries no types
    """`torch_geometric.nn.RGCNConv` with fewer operations: same parameters, same result.

    With E edges, B bases V_b and coefficients a_rb, the sum over relations r and neighbours of node i is
    Σ_r Σ_{j ∈ N_i^r} W_r h_j / c_ir = Σ_b (A_b H)_i V_b where (A_b)_ij = Σ_{edges j → i of type r} a_rb / c_ir.
    Graphs of captions have some hundred nodes at most, so the A_b are small. Without bases there would be an A_r for
    each of hundreds of relations with a few edges each; then every edge's message is computed by itself.
    """

    def forward(self, states: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        """Return the new states (N, out) of nodes with states (N, in); messages flow from head to tail."""
        groups = edge_type * len(states) + edge_index[1]
        # Not torch.bincount, for whose size a GPU makes the host wait in every layer and step.
        sizes = groups.new_zeros(self.num_relations * len(states)).index_add(0, groups, torch.ones_like(groups))
        shares = 1 / sizes[groups].to(states.dtype)
        aggregate = self._by_edge if self.num_bases is None else self._by_basis
        new: Tensor = aggregate(states, edge_index, edge_type, shares) + states @ self.root + self.bias
        return new

    def _by_basis(self, states: Tensor, edge_index: Tensor, edge_type: Tensor, shares: Tensor) -> Tensor:
        nodes = len(states)
        heads, tails = edge_index
        table = states.new_zeros(nodes * nodes, len(self.weight))
        table = table.index_add(0, tails * nodes + heads, shares[:, None] * self.comp[edge_type])
        table = table.T.reshape(-1, nodes, nodes)
        return torch.bmm(table @ states, self.weight).sum(0)

    def _by_edge(self, states: Tensor, edge_index: Tensor, edge_type: Tensor, shares: Tensor) -> Tensor:
        order = edge_type.argsort(stable=True)
        heads, tails = edge_index[:, order]
        messages = (states[heads] * shares[order, None]).split(torch.bincount(edge_type, minlength=1).tolist())
        # `unbind` gives the weights one gradient; an index of each would give it one of their whole size per relation.
        products = [part @ weight for part, weight in zip(messages, self.weight.unbind(), strict=False) if len(part)]
        out = states.new_zeros(len(states), self.out_channels)
        return out.index_add(0, tails, torch.cat(products)) if products else out


class GraphEncoder(nn.Module):
    """Layers of message passing over a graph (equation 15).

    For "rgcn", with c_{i,r} the number of neighbours of node i under relation r and N_i^r those neighbours,
    h_i' = σ(W_0 h_i + Σ_r Σ_{j ∈ N_i^r} W_r h_j / c_{i,r} + b); messages flow from head to tail, and back where
    `inverse` asks for it. σ is ReLU, left out after the last layer.

    Args:
        settings: Kind, widths, regularisation.
        features: Length D of a node's feature vector.
        relations: Number R of relations of the graph, inverses not counted.
    """

    def __init__(self, settings: GraphEncoderSettings, features: int, relations: int) -> None:
        super().__init__()
        self.settings = settings
        self.width = settings.widths[-1]
        sizes = (features, *settings.widths)
        types = max(relations, 1) * (2 if settings.inverse else 1)
        self.layers = nn.ModuleList(
            _layer(settings, before, after, types) for before, after in zip(sizes, settings.widths, strict=False)
        )

    def forward(self, graph: GraphTensors) -> Tensor:
        """Return the nodes' states H, (N, width)."""
        if self.settings.inverse:
            graph = graph.with_inverses()
        states = graph.features
        for number, layer in enumerate(self.layers):
            if number:
                states = F.dropout(F.relu(states), self.settings.dropout, self.training)
            states = _pass(self.settings.kind, layer, states, graph)
        return states


class Readout(nn.Module):
    """READOUT of equation (16): one vector for the graph.

    "mean": F_kg = (1/N) Σ_i h_i. "attention": F_kg = Σ_i a_i h_i with a = softmax_i(w · tanh(W h_i)).

    Args:
        settings: Which readout.
        width: Length of a node's state.
    """

    def __init__(self, settings: GraphEncoderSettings, width: int) -> None:
        super().__init__()
        self.score = (
            nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))
            if settings.readout == "attention"
            else None
        )

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Map states (N, width) to F_kg (width,), and tell the nodes' weights (N,), which sum to 1."""
        if self.score is None:
            return states.mean(0), states.new_full((len(states),), 1 / len(states))
        weights: Tensor = self.score(states).softmax(0)
        return (weights * states).sum(0), weights.squeeze(1)


def _layer(settings: GraphEncoderSettings, before: int, after: int, types: int) -> nn.Module:
    layer: nn.Module
    match settings.kind:
        case "rgcn":
            layer = RelationalLayer(before, after, types, num_bases=settings.bases)
        case "gcn":
            layer = pyg.GCNConv(before, after)
        case "gat":
            layer = pyg.GATConv(before, after, heads=settings.heads, concat=False)
        case "sage":
            layer = pyg.SAGEConv(before, after)
        case "monet":
            layer = pyg.GMMConv(before, after, dim=2, kernel_size=settings.kernels)
        case "none":
            layer = nn.Linear(before, after)
    return layer


def _pass(kind: str, layer: nn.Module, states: Tensor, graph: GraphTensors) -> Tensor:
    out: Tensor
    match kind:
        case "none":
            out = layer(states)
        case "rgcn":
            out = layer(states, graph.edge_index, graph.edge_type)
        case "monet":
            out = layer(states, graph.edge_index, _pseudo_coordinates(graph, states))
        case _:
            out = layer(states, graph.edge_index)
    return out


def _pseudo_coordinates(graph: GraphTensors, states: Tensor) -> Tensor:
    """Return MoNet's coordinates of every edge, (E, 2): one over the root of the degrees of its two ends.

    Monti et al., "Geometric deep learning on graphs and manifolds using mixture model CNNs" (2017), section 5.2.
    """
    ends = degree(graph.edge_index.flatten(), graph.nodes, dtype=states.dtype).clamp(min=1).rsqrt()
    return torch.stack([ends[graph.edge_index[0]], ends[graph.edge_index[1]]], dim=1)
