from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.captioners.fusion_settings import EvidenceSettings
from pipeline.errors import CacheError, CheckpointError, SettingsError
from pipeline.files import sha256_file
from pipeline.graphs.settings import GraphEncoderSettings
from pipeline.training.graph_source import ENCODER, read_source
from stages import graph as stage
from tests.training import evidence_world


def settings(**changes: object) -> EvidenceSettings:
    encoder = {**evidence_world.ENCODER_SETTINGS.model_dump(), **changes}
    return EvidenceSettings.model_validate({"graph_encoder": encoder})


def read(folder: Path, wanted: EvidenceSettings | None = None, *, weights: bool = True):
    return read_source(folder, wanted or settings(), pairs_sha256=None, weights=weights)


@pytest.fixture
def graph(project: Path, prepared: Path) -> Path:
    return evidence_world.write_graph(project / "graph", prepared)


def test_graph_and_weights_are_read_with_their_digests(graph):
    found = read(graph)
    assert found.tensors.features.shape == (4, evidence_world.NODE) and found.tensors.relations == 3
    assert found.weights is not None and found.weights
    assert found.digests == {name: sha256_file(graph / name) for name in ("graph.json", "graph.h5", ENCODER)}
    assert ENCODER == stage.ENCODER


def test_weights_are_read_where_they_are_wanted(graph):
    (graph / ENCODER).unlink()
    with pytest.raises(CheckpointError, match="not there") as caught:
        read(graph)
    assert "pretrained_graph: false" in caught.value.fix
    for found in (read(graph, weights=False), read(graph, EvidenceSettings(pretrained_graph=False))):
        assert found.weights is None and set(found.digests) == {"graph.json", "graph.h5"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "gcn"}, "kind: rgcn"),
        ({"widths": (8, 8)}, r"widths: \[8, 6\]"),
        ({"inverse": False}, "inverse: True"),
        ({"bases": None}, "bases: 2"),
    ],
)
def test_weights_of_another_encoder_are_refused_with_what_to_set(graph, changes, said):
    with pytest.raises(SettingsError, match="differs from the captioner's") as caught:
        read(graph, settings(**changes))
    assert caught.value.where == "train.captioner.evidence.graph_encoder"
    import re

    assert re.search(said, caught.value.fix) and "graph.encoder" in caught.value.fix


@pytest.mark.parametrize("changes", [{"dropout": 0.0}, {"readout": "attention"}, {"heads": 2}, {"kernels": 9}])
def test_what_does_not_show_in_the_weights_may_differ(graph, changes):
    assert read(graph, settings(**changes)).weights is not None


def test_heads_count_where_there_are_any(graph, prepared):
    there = GraphEncoderSettings(kind="gat", widths=(8, 6), heads=2)
    evidence_world.write_graph(graph, prepared, encoder=there)
    with pytest.raises(SettingsError, match="heads"):
        read(graph, settings(kind="gat", heads=4))
    assert read(graph, settings(kind="gat", heads=2, bases=None)).weights is not None


def test_an_encoder_of_another_graph_is_refused(graph, prepared):
    weights = (graph / ENCODER).read_bytes()
    evidence_world.write_graph(graph, prepared, engine="llm")
    (graph / ENCODER).write_bytes(weights)
    with pytest.raises(CheckpointError, match="another graph") as caught:
        read(graph)
    assert "sagecc graph" in caught.value.fix


def test_a_graph_without_node_features_is_refused(graph, prepared):
    evidence_world.write_graph(graph, prepared, width=0)
    with pytest.raises(CacheError, match="no features") as caught:
        read(graph)
    assert caught.value.where == str(graph / "graph.h5") and "sagecc graph" in caught.value.fix


def test_a_node_whose_features_are_no_numbers_is_named(graph):
    evidence_world.spoil(graph / "graph.h5", read(graph).tensors.features[1].numpy(), np.nan)
    with pytest.raises(CacheError, match="the node 'tree' hold NaN"):
        read(graph)
