"""Records of the caption graph: entities, relations, edges with counts, and the numbering of names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from pipeline.caption_graph.triples.normalisation import family_of
from pipeline.caption_graph.triples.records import Family

Key = tuple[str, str, str]
"""Head, relation, tail."""


@dataclass(frozen=True)
class Entity:
    """Node of the graph.

    Attributes:
        name: Its name.
        count: How often it is the head or the tail of a statement in the captions.
        names: The names merged into it, the most frequent first.
    """

    name: str
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Relation:
    """Type of edges.

    Attributes:
        name: Its name.
        count: How often it is stated in the captions.
        family: Kind of statement.
        names: The names merged into it, the most frequent first.
    """

    name: str
    count: int
    family: Family
    names: tuple[str, ...]


@dataclass(frozen=True, order=True)
class Edge:
    """Edge of the graph: positions of its entities and relation, and how often it is stated in the captions."""

    head: int
    relation: int
    tail: int
    count: int


@dataclass(frozen=True)
class CaptionGraph:
    """Caption graph of equation (13).

    Attributes:
        entities: Nodes, the most frequent first.
        relations: Types of edges, the most frequent first.
        edges: Each triple once, rising by head, relation, tail.
    """

    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...]
    edges: tuple[Edge, ...]

    @cached_property
    def entity_index(self) -> dict[str, int]:
        """Position of every entity by each of the names merged into it."""
        return {name: i for i, entity in enumerate(self.entities) for name in (entity.name, *entity.names)}

    @cached_property
    def relation_index(self) -> dict[str, int]:
        """Position of every relation by each of the names merged into it."""
        return {name: i for i, relation in enumerate(self.relations) for name in (relation.name, *relation.names)}

    @cached_property
    def keys(self) -> frozenset[tuple[int, int, int]]:
        """All triples: head, relation, tail."""
        return frozenset((edge.head, edge.relation, edge.tail) for edge in self.edges)

    def key(self, edge: Edge) -> Key:
        """Return an edge's triple by names."""
        return self.entities[edge.head].name, self.relations[edge.relation].name, self.entities[edge.tail].name


@dataclass(frozen=True)
class NameCounts:
    """Frequencies of entities and relations in statements.

    Attributes:
        entities: Occurrences as head or tail, by name.
        relations: Occurrences by name.
    """

    entities: Mapping[str, int]
    relations: Mapping[str, int]


def count_names(statements: Iterable[Key]) -> NameCounts:
    """Count the names of statements; each occurrence in a caption counts once for each role."""
    entities: Counter[str] = Counter()
    relations: Counter[str] = Counter()
    for head, relation, tail in statements:
        entities.update((head, tail))
        relations[relation] += 1
    return NameCounts(entities, relations)


def build_graph(
    statements: Mapping[Key, int], counts: NameCounts, names: Mapping[str, Mapping[str, list[str]]]
) -> CaptionGraph:
    """Number entities and relations and return the graph.

    Entities and relations without a statement are left out; they would be isolated.

    Args:
        statements: How often each triple is stated.
        counts: How often each name occurs, before filtering.
        names: "entities" and "relations": the names merged into each name; names not listed stand alone.
    """
    heads_and_tails = {name for head, _, tail in statements for name in (head, tail)}
    entity_names = _by_count(heads_and_tails, counts.entities)
    relation_names = _by_count({relation for _, relation, _ in statements}, counts.relations)
    entity_at = {name: position for position, name in enumerate(entity_names)}
    relation_at = {name: position for position, name in enumerate(relation_names)}
    edges = sorted(
        Edge(entity_at[head], relation_at[relation], entity_at[tail], count)
        for (head, relation, tail), count in statements.items()
    )
    return CaptionGraph(
        tuple(Entity(name, counts.entities[name], tuple(names["entities"].get(name, [name]))) for name in entity_names),
        tuple(
            Relation(name, counts.relations[name], family_of(name), tuple(names["relations"].get(name, [name])))
            for name in relation_names
        ),
        tuple(edges),
    )


def _by_count(names: Iterable[str], counts: Mapping[str, int]) -> list[str]:
    return sorted(names, key=lambda name: (-counts[name], name))
