from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.captioners.fusion_settings import EvidenceSettings
from pipeline.captioners.graph_branch import GraphBranch
from pipeline.errors import CheckpointError
from pipeline.graphs.encoders import GraphEncoder
from tests.captioners import plain
from tests.captioners.fused import make_fused, make_graph


def settings(**changes):
    encoder = {"widths": (6, 4), "bases": None, "inverse": False, **changes.pop("graph_encoder", {})}
    return EvidenceSettings.model_validate({"graph_encoder": encoder, **changes})


def plain_rgcn(branch, graph):
    """Equation (15) by loops: h_i' = W_0 h_i + Σ_r Σ_j W_r h_j / c_ir + b, ReLU between layers."""
    H = plain.array(graph.features)
    edges = list(zip(*graph.edge_index.tolist(), graph.edge_type.tolist(), strict=True))
    for number, layer in enumerate(branch.encoder.layers):
        if number:
            H = np.maximum(H, 0)
        rows = []
        for i in range(len(H)):
            row = H[i] @ plain.array(layer.root) + plain.array(layer.bias)
            for r in range(graph.relations):
                neighbours = [head for head, tail, kind in edges if tail == i and kind == r]
                for j in neighbours:
                    row = row + H[j] @ plain.array(layer.weight[r]) / len(neighbours)
            rows.append(row)
        H = np.stack(rows)
    return H


def test_states_are_equation_15_and_their_mean_16():
    branch = GraphBranch(settings(), 6, 4, readout=False).eval()
    graph = make_graph()
    expected = plain_rgcn(branch, graph)
    np.testing.assert_allclose(plain.array(branch(graph)[0]), expected, atol=1e-5)
    whole = GraphBranch(settings(), 6, 4, readout=True).eval()
    whole.encoder.load_state_dict(branch.encoder.state_dict())
    np.testing.assert_allclose(plain.array(whole(graph)[0]), expected.mean(0), atol=1e-5)


def test_attention_readout_is_equation_16():
    branch = GraphBranch(settings(graph_encoder={"readout": "attention"}), 6, 4, readout=True).eval()
    graph = make_graph()
    H = plain_rgcn(branch, graph)
    first, _, last = branch.readout.score
    weights = plain.softmax(np.tanh(plain.linear(H, first)) @ plain.array(last.weight)[0])
    read, shares = branch(graph)
    np.testing.assert_allclose(plain.array(read), weights @ H, atol=1e-5)
    np.testing.assert_allclose(plain.array(shares), weights, atol=1e-5)


@pytest.mark.parametrize("kind", ["rgcn", "gcn", "gat", "sage", "monet", "none"])
def test_every_kind_of_table_7_serves(kind):
    branch = GraphBranch(settings(graph_encoder={"kind": kind}), 6, 4, readout=True).eval()
    graph = make_graph()
    assert branch(graph)[0].shape == (4,)
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = branch(replace(graph, features=graph.features))
    assert torch.equal(half, branch(graph)[0])
    rounded = replace(graph, features=graph.features.half())
    assert branch(rounded)[0].dtype == torch.float32


def test_a_frozen_encoder_stays_as_it_is():
    branch = GraphBranch(settings(frozen_graph=True, graph_encoder={"readout": "attention"}), 6, 4, readout=True)
    branch.train()
    graph = make_graph()
    assert torch.equal(branch(graph)[0], branch(graph)[0])  # no dropout
    branch(graph)[0].sum().backward()
    assert all(weight.grad is None for weight in branch.encoder.parameters())
    assert all(weight.grad is not None for weight in branch.readout.parameters())


def test_a_trained_encoder_drops_out_and_learns():
    branch = GraphBranch(settings(graph_encoder={"dropout": 0.5}), 6, 4, readout=True).train()
    graph = make_graph()
    assert not torch.equal(branch(graph)[0], branch(graph)[0])
    branch(graph)[0].sum().backward()
    assert all(weight.grad.any() for weight in branch.encoder.parameters())


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_pretrained_weights_are_taken(fusion):
    model = make_fused(fusion)
    other = GraphEncoder(model.settings.evidence.graph_encoder, 6, 4)
    model.load_graph_encoder(other.state_dict())
    found = model.fusion.graph.encoder.state_dict()
    assert all(torch.equal(found[name], value) for name, value in other.state_dict().items())


def test_weights_of_another_encoder_are_refused(model):
    encoder = make_fused("paper").settings.evidence.graph_encoder
    other = GraphEncoder(encoder.model_copy(update={"widths": (3, 6)}), 6, 4)
    with pytest.raises(CheckpointError, match="has other layers") as caught:
        make_fused("paper").load_graph_encoder(other.state_dict())
    assert "graph.encoder" in caught.value.fix
    with pytest.raises(ValueError, match="no graph encoder"):
        make_fused("paper", evidence={"graph": False}).load_graph_encoder({})
    with pytest.raises(ValueError, match="no graph encoder"):
        model.load_graph_encoder({})


def test_captioners_without_graph_do_not_wait_for_pytorch_geometric():
    code = "import sys, pipeline.captioners.sage_cc; sys.exit('torch_geometric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
