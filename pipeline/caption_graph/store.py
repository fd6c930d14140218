"""Files of the graph: graph.json for people and other programs, graph.h5 for the graph encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Expectation, Provenance, Schema
from pipeline.cache.schema import Field as CacheField
from pipeline.cache.writer import pack
from pipeline.caption_graph.records import CaptionGraph, Edge, Entity, Relation
from pipeline.caption_graph.triples.records import Family
from pipeline.errors import DataError
from pipeline.files import read_json, sha256_file, write_text

GRAPH, TENSORS = "graph.json", "graph.h5"
_BUILD_AGAIN: Final = "run `sagecc graph`"

SCHEMA = Schema(
    stage="graph",
    version=1,
    unit="node",
    fields=(
        CacheField("features", "float32", (-1,), description="vector of the node's name by the text encoder, eq. (14)"),
        CacheField("count", "int64", description="how often the entity is head or tail of a statement"),
        CacheField("tail", "int64", offsets="edges", description="tails of the edges whose head the node is, A_conn"),
        CacheField(
            "relation", "int64", offsets="edges", description="number of the edge's relation in graph.json, A_type"
        ),
        CacheField("stated", "int64", offsets="edges", description="how often the edge's triple is stated"),
    ),
)


class _Entity(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    count: int = Field(ge=0)
    names: tuple[str, ...]


class _Relation(_Entity):
    family: Family


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")
    version: int = Field(ge=1, le=1)
    about: dict[str, Any]
    entities: list[_Entity]
    relations: list[_Relation]
    triples: list[tuple[str, str, str, int]]


@dataclass(frozen=True)
class StoredGraph:
    """Content of graph.json.

    Attributes:
        graph: The graph.
        about: Its provenance: data set, engine, model, settings, counts.
    """

    graph: CaptionGraph
    about: dict[str, Any]


@dataclass(frozen=True)
class GraphArrays:
    """Content of graph.h5: N nodes, E edges, in the order of graph.json.

    Attributes:
        features: (N, D) float32, vectors of the entities' names (equation 14).
        edge_index: (2, E) int64, heads and tails: A_conn of equation (13).
        edge_type: (E,) int64, numbers of relations: A_type.
        edge_count: (E,) int64, how often each triple is stated.
        relations: Number of relations.
    """

    features: npt.NDArray[np.float32]
    edge_index: npt.NDArray[np.int64]
    edge_type: npt.NDArray[np.int64]
    edge_count: npt.NDArray[np.int64]
    relations: int


def write_graph(path: Path, graph: CaptionGraph, about: Mapping[str, Any]) -> Path:
    """Write graph.json, one entity, relation or triple a line."""
    triples = [[*graph.key(edge), edge.count] for edge in graph.edges]
    entities = [{"name": e.name, "count": e.count, "names": e.names} for e in graph.entities]
    relations = [{"name": r.name, "count": r.count, "family": r.family, "names": r.names} for r in graph.relations]
    sections = [f'"version": 1,\n"about": {json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False)}']
    for name, rows in (("entities", entities), ("relations", relations), ("triples", triples)):
        lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
        sections.append(f'"{name}": [\n{lines}\n]')
    return write_text(path, "{\n" + ",\n".join(sections) + "\n}\n")


def read_graph(folder: Path) -> StoredGraph:
    """Read graph.json of a folder that `sagecc graph` wrote.

    Raises:
        DataError: It is missing, damaged, or its triples name unknown entities or relations.
    """
    path = folder / GRAPH
    document = read_json(path, fix=_BUILD_AGAIN)
    try:
        content = _Document.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = ".".join(map(str, first["loc"]))
        raise DataError(f"not a caption graph: {location}: {first['msg']}", where=path, fix=_BUILD_AGAIN) from error
    entity_at = {entity.name: position for position, entity in enumerate(content.entities)}
    relation_at = {relation.name: position for position, relation in enumerate(content.relations)}
    try:
        edges = [
            Edge(entity_at[head], relation_at[relation], entity_at[tail], count)
            for head, relation, tail, count in content.triples
        ]
    except KeyError as error:
        raise DataError(
            f"not a caption graph: a triple names {error.args[0]!r}, which is not listed", where=path, fix=_BUILD_AGAIN
        ) from error
    graph = CaptionGraph(
        tuple(Entity(e.name, e.count, e.names) for e in content.entities),
        tuple(Relation(r.name, r.count, r.family, r.names) for r in content.relations),
        tuple(sorted(edges)),
    )
    return StoredGraph(graph, content.about)


def edge_arrays(graph: CaptionGraph, features: npt.NDArray[np.float32]) -> GraphArrays:
    """Return a graph and the vectors of its nodes as arrays."""
    table = _table(graph.edges)
    return GraphArrays(
        features, table[:, [0, 2]].T.copy(), table[:, 1].copy(), table[:, 3].copy(), len(graph.relations)
    )


def write_tensors(path: Path, graph: CaptionGraph, features: npt.NDArray[np.float32], provenance: Provenance) -> Path:
    """Write graph.h5; node ids are the entities' names.

    Args:
        path: The final name.
        graph: Nodes and edges.
        features: (N, D), a vector per node.
        provenance: Provenance of the graph.
    """
    return pack(path, SCHEMA, provenance, [entity.name for entity in graph.entities], _Units(graph, features))


def read_tensors(folder: Path, *, pairs_sha256: str | None = None) -> GraphArrays:
    """Read graph.h5 of a folder that `sagecc graph` wrote, the one that belongs to its graph.json.

    Args:
        folder: The folder.
        pairs_sha256: SHA-256 of the pairs.jsonl that it must have been made from; None: any.

    Raises:
        CacheError: It is missing, damaged, belongs to another graph.json or was made from other pairs.
        DataError: graph.json is missing or damaged.
    """
    stored = read_graph(folder)
    upstream = {GRAPH: sha256_file(folder / GRAPH)}
    if pairs_sha256 is not None:
        upstream["pairs.jsonl"] = pairs_sha256
    expect = Expectation(upstream=upstream, repair="sagecc graph")
    nodes = np.arange(len(stored.graph.entities))
    with Cache.open(folder / TENSORS, SCHEMA, expect=expect) as cache:
        features, _ = cache.rows("features", nodes)
        tails, lengths = cache.rows("tail", nodes)
        types, _ = cache.rows("relation", nodes)
        counts, _ = cache.rows("stated", nodes)
    return GraphArrays(
        features, np.stack([np.repeat(nodes, lengths), tails]), types, counts, len(stored.graph.relations)
    )


def _table(edges: Sequence[Edge]) -> npt.NDArray[np.int64]:
    """Return (E, 4): head, relation, tail, count."""
    rows = [(edge.head, edge.relation, edge.tail, edge.count) for edge in edges]
    return np.array(rows, np.int64).reshape(-1, 4)


class _Units:
    """Nodes in the form that `pack` reads."""

    def __init__(self, graph: CaptionGraph, features: npt.NDArray[np.float32]) -> None:
        self._graph, self._features = graph, features
        self._edges: list[list[Edge]] = [[] for _ in graph.entities]
        for edge in graph.edges:
            self._edges[edge.head].append(edge)

    def __len__(self) -> int:
        return len(self._edges)

    def lengths(self, unit: int) -> Mapping[str, int]:
        return {"edges": len(self._edges[unit])}

    def read(self, unit: int) -> Mapping[str, npt.NDArray[Any]]:
        table = _table(self._edges[unit])
        return {
            "features": self._features[unit],
            "count": np.int64(self._graph.entities[unit].count),
            "tail": table[:, 2],
            "relation": table[:, 1],
            "stated": table[:, 3],
        }
