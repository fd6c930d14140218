from __future__ import annotations

import pytest
import torch
import torch_geometric.backend
from pydantic import ValidationError
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.nn import RGCNConv

from pipeline.graph_encoders.encoders import GraphEncoder, Readout, RelationalLayer
from pipeline.graph_encoders.settings import EncoderKind, GraphEncoderSettings
from pipeline.graph_encoders.tensors import GraphTensors

KINDS: tuple[EncoderKind, ...] = ("rgcn", "gcn", "gat", "sage", "monet", "none")


def make_graph(nodes: int = 7, edges: int = 30, relations: int = 4, seed: int = 0) -> GraphTensors:
    generator = torch.Generator().manual_seed(seed)
    return GraphTensors(
        torch.randn(nodes, 6, generator=generator),
        torch.randint(nodes, (2, edges), generator=generator),
        torch.randint(relations, (edges,), generator=generator),
        relations,
    )


def plain_loop(layer: RelationalLayer, weights: torch.Tensor, graph: GraphTensors) -> torch.Tensor:
    """Equation (15) by loops, without the nonlinearity."""
    states = []
    for node in range(graph.nodes):
        state = graph.features[node] @ layer.root + layer.bias
        for relation in range(graph.relations):
            neighbours = [
                int(head)
                for (head, tail), kind in zip(graph.edge_index.T.tolist(), graph.edge_type.tolist(), strict=True)
                if tail == node and kind == relation
            ]
            for neighbour in neighbours:
                state = state + graph.features[neighbour] @ weights[relation] / len(neighbours)
        states.append(state)
    return torch.stack(states)


@pytest.mark.parametrize("bases", [None, 2])
def test_rgcn_averages_per_relation(bases: int | None) -> None:
    torch.manual_seed(0)
    graph = make_graph()
    layer = RelationalLayer(6, 5, graph.relations, num_bases=bases)
    weights = layer.weight if bases is None else torch.einsum("rb,bio->rio", layer.comp, layer.weight)
    states = layer(graph.features, graph.edge_index, graph.edge_type)
    assert torch.allclose(states, plain_loop(layer, weights, graph), atol=1e-5)


@pytest.mark.parametrize("bases", [None, 3])
def test_rgcn_equals_pytorch_geometric(bases: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where pyg-lib is installed the library would else take the mean over all relations together.
    monkeypatch.setattr(torch_geometric.backend, "use_segment_matmul", False)
    torch.manual_seed(0)
    graph = make_graph(nodes=9, edges=80, relations=6)
    layer, theirs = RelationalLayer(6, 5, 6, num_bases=bases), RGCNConv(6, 5, 6, num_bases=bases)
    theirs.load_state_dict(layer.state_dict())
    arguments = graph.features, graph.edge_index, graph.edge_type
    states, expected = layer(*arguments), theirs(*arguments)
    assert torch.allclose(states, expected, atol=1e-5)
    for ours, reference in zip(
        torch.autograd.grad(states.square().sum(), list(layer.parameters())),
        torch.autograd.grad(expected.square().sum(), list(theirs.parameters())),
        strict=True,
    ):
        assert torch.allclose(ours, reference, atol=1e-3)


class Largest(TorchDispatchMode):
    """Notes the most values that a tensor computed within it holds."""

    values = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            self.values = max(self.values, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
        return out


def test_relations_without_bases_cost_no_more_than_their_edges() -> None:
    # As a table of nodes by nodes for each relation there would be 500 · 60 · 60 values.
    torch.manual_seed(0)
    graph = make_graph(nodes=60, edges=90, relations=500)
    layer = RelationalLayer(6, 5, 500)
    with Largest() as largest:
        states = layer(graph.features, graph.edge_index, graph.edge_type)
        states.square().sum().backward()
    assert largest.values <= 500 * 60
    assert torch.allclose(states, plain_loop(layer, layer.weight, graph), atol=1e-5)
    unused = set(range(500)) - set(graph.edge_type.tolist())
    assert len(unused) > 400 and not layer.weight.grad[sorted(unused)].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edges", [0, 1, 12])
def test_every_kind_encodes_graphs_of_any_size(kind: EncoderKind, edges: int) -> None:
    settings = GraphEncoderSettings(kind=kind, widths=(5, 3))
    encoder = GraphEncoder(settings, 6, 4).eval()
    for nodes in (1, 7):
        states = encoder(make_graph(nodes, edges))
        assert states.shape == (nodes, encoder.width) == (nodes, 3)
        assert torch.isfinite(states).all()


@pytest.mark.parametrize("kind", KINDS)
def test_who_sees_edges_and_relations(kind: EncoderKind) -> None:
    torch.manual_seed(0)
    graph = make_graph()
    encoder = GraphEncoder(GraphEncoderSettings(kind=kind, widths=(5,)), 6, 4).eval()
    states = encoder(graph)
    other_types = encoder(GraphTensors(graph.features, graph.edge_index, graph.edge_type.flip(0), 4))
    assert torch.equal(states, other_types) is (kind != "rgcn")
    no_edges = encoder(graph.with_edges(slice(0)))
    assert torch.equal(states, no_edges) is (kind == "none")


def test_messages_flow_back_only_where_asked() -> None:
    graph = GraphTensors(torch.eye(2), torch.tensor([[0], [1]]), torch.tensor([0]), 1)
    for inverse in (False, True):
        encoder = GraphEncoder(GraphEncoderSettings(widths=(4,), inverse=inverse), 2, 1)
        head = encoder(graph)[0]
        alone = encoder(graph.with_edges(slice(0)))[0]
        assert torch.equal(head, alone) is not inverse


def test_readouts() -> None:
    states = torch.randn(5, 4)
    mean, shares = Readout(GraphEncoderSettings(), 4)(states)
    assert torch.allclose(mean, states.mean(0)) and torch.allclose(shares, torch.full((5,), 0.2))
    attention = Readout(GraphEncoderSettings(readout="attention"), 4)
    assert attention.score is not None
    weights = attention.score(states).softmax(0)
    read, shares = attention(states)
    assert torch.allclose(read, sum(weights[i] * states[i] for i in range(5)))
    assert torch.allclose(shares, weights.squeeze(1))
    assert torch.allclose(attention(states[:1])[0], states[0])


@pytest.mark.parametrize(
    ("features", "index", "types", "said"),
    [
        (torch.zeros(0, 3), torch.zeros(2, 0, dtype=torch.long), torch.zeros(0, dtype=torch.long), "a node at least"),
        (torch.zeros(2, 3), torch.tensor([[0], [2]]), torch.tensor([0]), "a node outside 0 to 1"),
        (torch.zeros(2, 3), torch.tensor([[0], [1]]), torch.tensor([1]), "a relation outside 0 to 0"),
        (torch.zeros(2, 3), torch.tensor([[0], [1]]), torch.tensor([0, 0]), "does not fit"),
    ],
)
def test_inconsistent_tensors_are_refused(
    features: torch.Tensor, index: torch.Tensor, types: torch.Tensor, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        GraphTensors(features, index, types, 1)


def test_counts_follow_their_edges() -> None:
    graph = make_graph(edges=5)
    assert graph.with_edges(slice(2)).stated is None
    counted = GraphTensors(graph.features, graph.edge_index, graph.edge_type, 4, torch.arange(5))
    chosen = counted.with_edges(torch.tensor([3, 1]))
    assert torch.equal(chosen.triples, graph.triples[[3, 1]])
    assert chosen.with_inverses().stated.tolist() == [3, 1, 3, 1]
    with pytest.raises(ValueError, match="counts do not fit"):
        GraphTensors(graph.features, graph.edge_index, graph.edge_type, 4, torch.arange(4))


def test_widths_must_be_sensible() -> None:
    with pytest.raises(ValidationError):
        GraphEncoderSettings(widths=())
    with pytest.raises(ValidationError, match="between 1 and 8192"):
        GraphEncoderSettings(widths=(4, 0))
