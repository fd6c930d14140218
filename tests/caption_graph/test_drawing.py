from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from pipeline.caption_graph.build import rebuild
from pipeline.caption_graph.coverage import find_entity
from pipeline.caption_graph.drawing import draw_graph, export_graph, layout_nodes, spread_labels
from pipeline.caption_graph.merging import MergeMap
from pipeline.caption_graph.records import CaptionGraph, Entity
from pipeline.caption_graph.store import edge_arrays, read_graph, write_graph
from pipeline.errors import OutputError
from tests.caption_graph.conftest import STATEMENTS

NAMESPACE = "{http://graphml.graphdrawing.org/xmlns}"


def test_graphml_holds_every_node_and_edge(tmp_path: Path, graph: CaptionGraph) -> None:
    root = ET.parse(export_graph(graph, tmp_path / "g.graphml")).getroot()
    nodes = {node.get("id"): node[0].text for node in root.iter(f"{NAMESPACE}node")}
    edges = {
        (nodes[edge.get("source")], edge[0].text, nodes[edge.get("target")]): int(edge[2].text or 0)
        for edge in root.iter(f"{NAMESPACE}edge")
    }
    assert edges == STATEMENTS


def test_jsonld_holds_every_statement(tmp_path: Path, graph: CaptionGraph) -> None:
    document = json.loads(export_graph(graph, tmp_path / "g.json", "jsonld").read_text())
    nodes = {item["@id"]: item for item in document["@graph"] if "@id" in item}
    statements = [item for item in document["@graph"] if item["@type"] == "Statement"]
    assert {
        tuple(nodes[item[role]]["name"] for role in ("head", "predicate", "tail")): item["count"] for item in statements
    } == STATEMENTS
    assert {"@id": "entity:tree"} in nodes["entity:road"]["relation:replace"]


def test_names_with_special_signs_survive_the_export(tmp_path: Path) -> None:
    odd = rebuild([('a "b" & <c>', "on", "road")], 1, MergeMap()).graph
    root = ET.parse(export_graph(odd, tmp_path / "g.graphml")).getroot()
    assert 'a "b" & <c>' in {node[0].text for node in root.iter(f"{NAMESPACE}node")}


def test_an_export_of_unknown_form_is_refused(tmp_path: Path, graph: CaptionGraph) -> None:
    with pytest.raises(OutputError, match="which form"):
        export_graph(graph, tmp_path / "g.txt")


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_the_same_graph_gives_the_same_picture(tmp_path: Path, graph: CaptionGraph, ending: str) -> None:
    one, two = (draw_graph(graph, tmp_path / f"{name}.{ending}").read_bytes() for name in ("one", "two"))
    assert one == two
    if ending == "svg":
        text = one.decode()
        assert all(f">{name}</text>" in text for name in ("road", "house", "villa", "build-along"))
        assert ">scene</text>" not in text


def test_odd_graphs_can_be_drawn(tmp_path: Path) -> None:
    for number, key in enumerate([("house", "replace", "house"), ("tree", "remove", "scene")]):
        assert draw_graph(rebuild([key], 1, MergeMap()).graph, tmp_path / f"{number}.png").stat().st_size > 0
    with pytest.raises(OutputError, match=r"\.svg, \.png or \.pdf"):
        draw_graph(rebuild([key], 1, MergeMap()).graph, tmp_path / "g.bmp")


@pytest.mark.parametrize("names", [("house",), ("house", "road")], ids=["one node", "two nodes"])
def test_a_graph_without_edges_can_be_stored_drawn_and_exported(tmp_path: Path, names: tuple[str, ...]) -> None:
    bare = CaptionGraph(tuple(Entity(name, 3, (name,)) for name in names), (), ())
    write_graph(tmp_path / "graph.json", bare, {})
    assert read_graph(tmp_path).graph == bare
    assert edge_arrays(bare, np.zeros((len(names), 4), np.float32)).edge_index.shape == (2, 0)
    for ending in ("svg", "png", "pdf"):
        assert draw_graph(bare, tmp_path / f"g.{ending}").stat().st_size > 0
    root = ET.parse(export_graph(bare, tmp_path / "g.graphml")).getroot()
    assert len(list(root.iter(f"{NAMESPACE}node"))) == len(names)
    assert len(json.loads(export_graph(bare, tmp_path / "g.jsonld").read_text())["@graph"]) == len(names)
    assert find_entity(bare, "a house") == 0


def test_linked_nodes_lie_closer_than_others() -> None:
    links = np.zeros((6, 6))
    links[0, 1] = links[1, 2] = links[3, 4] = links[4, 5] = 5
    positions = layout_nodes(links + links.T)
    gaps = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    assert gaps[0, 1] < gaps[0, 4]
    assert np.isfinite(positions).all()
    assert np.linalg.norm(positions, axis=1).max() <= 1.0001


def test_labels_are_pushed_apart() -> None:
    sizes = np.full((5, 2), [2.0, 1.0])
    positions = spread_labels(np.zeros((5, 2)) + np.arange(5)[:, None] * 0.1, sizes)
    for one in range(5):
        for other in range(one):
            assert (np.abs(positions[one] - positions[other]) >= sizes[0] - 1e-6).any()
