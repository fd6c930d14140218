"""Coverage of captions by the graph: of those it was built from and of others; lookup of entities; tables."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.table import Table

from pipeline.caption_graph.merging import MergeMap, apply_merges
from pipeline.caption_graph.records import CaptionGraph, NameCounts, count_names
from pipeline.caption_graph.triples.normalisation import normalise_entity
from pipeline.caption_graph.triples.records import Caption, Triple
from pipeline.datasets.no_change import implies_change
from pipeline.errors import DataError


def find_entity(graph: CaptionGraph, phrase: str) -> int:
    """Return the position of the entity that a name, a merged name, or a phrase ("the roads") stands for.

    Raises:
        DataError: It is not in the graph; the message names the closest ones.
    """
    for name in (phrase, phrase.lower().strip(), normalise_entity(phrase)):
        if name is not None and name in graph.entity_index:
            return graph.entity_index[name]
    near = difflib.get_close_matches(phrase.lower(), list(graph.entity_index), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`sagecc graph show` lists the entities"
    raise DataError(f"the graph has no entity {phrase!r}", fix=hint)


_BINS: Final = ((0, 0), (1, 9), (10, 49), (50, 499), (500, None))


@dataclass(frozen=True)
class CoveredMentions:
    """Mentions of names, and how many of these names are in the graph.

    Attributes:
        mentions: Number of mentions.
        in_graph: Number of mentions of names in the graph.
    """

    mentions: int
    in_graph: int


@dataclass(frozen=True)
class Coverage:
    """Coverage of captions by a graph.

    Attributes:
        captions: Number of captions.
        changed: Captions that state a change; the shares below are of these.
        with_triple: Captions with a triple at all.
        with_known_triple: Captions with a triple that is in the graph.
        all_entities: Captions with triples, all of whose entities are in the graph.
        all_relations: The same for relations.
        all_triples: Captions with triples, all of which are in the graph.
        entities: Mentions by how often the training captions mention the name, as "0", "1–9", ….
        relations: The same for relations.
        unknown: The most frequent names that are not in the graph, with their mentions; entities, then relations.
    """

    captions: int
    changed: int
    with_triple: int
    with_known_triple: int
    all_entities: int
    all_relations: int
    all_triples: int
    entities: dict[str, CoveredMentions]
    relations: dict[str, CoveredMentions]
    unknown: tuple[list[tuple[str, int]], list[tuple[str, int]]]

    def values(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {
            **{
                name: getattr(self, name)
                for name in (
                    "captions",
                    "changed",
                    "with_triple",
                    "with_known_triple",
                    "all_entities",
                    "all_relations",
                    "all_triples",
                )
            },
            **{
                kind: {name: {"mentions": s.mentions, "known": s.in_graph} for name, s in getattr(self, kind).items()}
                for kind in ("entities", "relations")
            },
            "unknown_entities": self.unknown[0],
            "unknown_relations": self.unknown[1],
        }


def coverage(
    graph: CaptionGraph, merges: MergeMap, training: NameCounts, captions: Sequence[Caption], triples: Iterable[Triple]
) -> Coverage:
    """Measure the coverage of captions by the graph.

    Args:
        graph: The graph.
        merges: The map of names that it was built with.
        training: How often the training captions mention each name, after merging.
        captions: All captions.
        triples: Their triples.
    """
    statements = list(triples)
    keys = apply_merges((triple.key for triple in statements), merges)
    by_caption: dict[tuple[str, int], list[tuple[str, str, str]]] = {}
    for triple, key in zip(statements, keys, strict=True):
        by_caption.setdefault((triple.pair, triple.sentence), []).append(key)
    entities = {entity.name for entity in graph.entities}
    relations = {relation.name for relation in graph.relations}
    graph_triples = {graph.key(edge) for edge in graph.edges}
    counted = count_names(keys)
    caption_keys = by_caption.values()
    return Coverage(
        captions=len(captions),
        changed=sum(implies_change(caption.text) for caption in captions),
        with_triple=len(by_caption),
        with_known_triple=sum(any(key in graph_triples for key in keys) for keys in caption_keys),
        all_entities=sum(all(key[0] in entities and key[2] in entities for key in keys) for keys in caption_keys),
        all_relations=sum(all(key[1] in relations for key in keys) for keys in caption_keys),
        all_triples=sum(all(key in graph_triples for key in keys) for keys in caption_keys),
        entities=_by_frequency(counted.entities, training.entities, entities),
        relations=_by_frequency(counted.relations, training.relations, relations),
        unknown=(_unknown(counted.entities, entities), _unknown(counted.relations, relations)),
    )


def _by_frequency(
    mentioned: Mapping[str, int], training: Mapping[str, int], graph_names: set[str]
) -> dict[str, CoveredMentions]:
    table = {}
    for low, high in _BINS:
        names = [name for name in mentioned if low <= training.get(name, 0) <= (high if high is not None else 10**12)]
        label = str(low) if high == low else f"{low}–{high}" if high is not None else f"{low}+"
        table[label] = CoveredMentions(
            sum(mentioned[name] for name in names), sum(mentioned[name] for name in names if name in graph_names)
        )
    return table


def _unknown(mentioned: Mapping[str, int], graph_names: set[str]) -> list[tuple[str, int]]:
    unknown = Counter({name: count for name, count in mentioned.items() if name not in graph_names})
    return sorted(unknown.items(), key=lambda pair: (-pair[1], pair[0]))[:10]


def coverage_tables(covered: Coverage, split: str) -> list[Table]:
    """Return the tables: captions, mentions by frequency in the training captions, unknown names."""
    captions = _table(f"{split}: {covered.changed:,} changed captions", "of the changed captions", "captions", "share")
    for label, count in (
        ("with a triple", covered.with_triple),
        ("with a triple of the graph", covered.with_known_triple),
        ("all their entities in the graph", covered.all_entities),
        ("all their relations in the graph", covered.all_relations),
        ("all their triples in the graph", covered.all_triples),
    ):
        captions.add_row(label, f"{count:,}", _share(count, covered.changed))
    frequency = _table(
        "mentions, by how often the training captions name what is mentioned",
        "times in training", "entities", "known", "relations", "known",
    )  # fmt: skip
    for label, entities in covered.entities.items():
        relations = covered.relations[label]
        frequency.add_row(
            label,
            f"{entities.mentions:,}",
            _share(entities.in_graph, entities.mentions),
            f"{relations.mentions:,}",
            _share(relations.in_graph, relations.mentions),
        )
    unknown = Table("kind", "most frequent unknown names", title="what the graph does not know", title_justify="left")
    for kind, names in zip(("entities", "relations"), covered.unknown, strict=True):
        unknown.add_row(kind, ", ".join(f"{name} ({count})" for name, count in names))
    return [captions, frequency, unknown]


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "–"
