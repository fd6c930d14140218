from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.schema import Provenance
from pipeline.caption_graph.build import rebuild
from pipeline.caption_graph.merging import MergeMap
from pipeline.caption_graph.records import CaptionGraph
from pipeline.caption_graph.store import SCHEMA, edge_arrays, read_graph, read_tensors, write_graph, write_tensors
from pipeline.errors import CacheError, DataError
from pipeline.files import sha256_file


def _write(folder: Path, graph: CaptionGraph) -> np.ndarray:
    features = np.random.default_rng(0).normal(size=(len(graph.entities), 5)).astype(np.float32)
    write_graph(folder / "graph.json", graph, {"engine": "rules"})
    upstream = {"graph.json": sha256_file(folder / "graph.json")}
    provenance = Provenance("graph", SCHEMA.version, {}, "0" * 64, upstream=upstream)
    write_tensors(folder / "graph.h5", graph, features, provenance)
    return features


def test_what_is_written_reads_back(tmp_path: Path, graph: CaptionGraph) -> None:
    features = _write(tmp_path, graph)
    stored = read_graph(tmp_path)
    assert (stored.graph, stored.about) == (graph, {"engine": "rules"})
    arrays, expected = read_tensors(tmp_path), edge_arrays(graph, features)
    for name in ("features", "edge_index", "edge_type", "edge_count"):
        assert np.array_equal(getattr(arrays, name), getattr(expected, name)), name
    assert arrays.relations == len(graph.relations)


def test_a_graph_of_one_node(tmp_path: Path) -> None:
    alone = rebuild([("house", "replace", "house")], 1, MergeMap()).graph
    _write(tmp_path, alone)
    assert read_tensors(tmp_path).edge_index.tolist() == [[0], [0]]


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path, graph: CaptionGraph) -> None:
    for name in ("one", "two"):
        _write(tmp_path / name, graph)
    for file in ("graph.json", "graph.h5"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_tensors_of_another_graph_are_refused(tmp_path: Path, graph: CaptionGraph) -> None:
    _write(tmp_path, graph)
    write_graph(tmp_path / "graph.json", graph, {"engine": "llm"})
    with pytest.raises(CacheError, match="sagecc graph"):
        read_tensors(tmp_path)


def test_damaged_files_are_named(tmp_path: Path, graph: CaptionGraph) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_graph(tmp_path)
    path = write_graph(tmp_path / "graph.json", graph, {})
    document = json.loads(path.read_text())
    document["triples"].append(["road", "fly-over", "tree", 1])
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="'fly-over', which is not listed"):
        read_graph(tmp_path)
    path.write_text(json.dumps({**document, "triples": [["road"]]}))
    with pytest.raises(DataError, match="not a caption graph: triples"):
        read_graph(tmp_path)
