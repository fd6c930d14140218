"""A coverage report as tables for the terminal.

Looking up an entity by what a person types.

How much of what captions say the graph knows: of the captions it was built from, and of others.
"""

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
        DataError: The graph does not know it; the nearest names are told.
    """
    for name in (phrase, phrase.lower().strip(), normalise_entity(phrase)):
        if name is not None and name in graph.entity_index:
            return graph.entity_index[name]
    near = difflib.get_close_matches(phrase.lower(), list(graph.entity_index), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`sagecc graph show` lists the entities"
    raise DataError(f"the graph has no entity {phrase!r}", fix=hint)


_BINS: Final = ((0, 0), (1, 9), (10, 49), (50, 499), (500, None))


@dataclass(frozen=True)
class KnownShare:
    """Mentions of names, and how many of them the graph knows.

    Attributes:
        mentions: Number of mentions.
        known: Of which the name is in the graph.
    """

    mentions: int
    known: int


@dataclass(frozen=True)
class Coverage:
    """How far a graph covers some captions.

    Attributes:
        captions: Number of captions.
        changed: Captions that say that something changed; the shares below are of these.
        with_triple: Captions with a triple at all.
        with_known_triple: Captions with a triple that the graph holds.
        all_entities: Captions with triples, all of whose entities the graph knows.
        all_relations: The same for relations.
        all_triples: Captions all of whose triples the graph holds.
        entities: Mentions by how often the training captions mention the name, as "0", "1–9", ….
        relations: The same for relations.
        unknown: The most frequent names that the graph does not know, with their mentions; entities, then relations.
    """

    captions: int
    changed: int
    with_triple: int
    with_known_triple: int
    all_entities: int
    all_relations: int
    all_triples: int
    entities: dict[str, KnownShare]
    relations: dict[str, KnownShare]
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
                kind: {name: {"mentions": s.mentions, "known": s.known} for name, s in getattr(self, kind).items()}
                for kind in ("entities", "relations")
            },
            "unknown_entities": self.unknown[0],
            "unknown_relations": self.unknown[1],
        }


def coverage(
    graph: CaptionGraph, merges: MergeMap, training: NameCounts, captions: Sequence[Caption], triples: Iterable[Triple]
) -> Coverage:
    """Measure how far the graph covers captions.

    Args:
        graph: The graph.
        merges: The map of names that it was built with.
        training: How often the training captions mention each name, after merging.
        captions: All captions to look at.
        triples: Their triples.
    """
    statements = list(triples)
    keys = apply_merges((triple.key for triple in statements), merges)
    by_caption: dict[tuple[str, int], list[tuple[str, str, str]]] = {}
    for triple, key in zip(statements, keys, strict=True):
        by_caption.setdefault((triple.pair, triple.sentence), []).append(key)
    entities = {entity.name for entity in graph.entities}
    relations = {relation.name for relation in graph.relations}
    held = {graph.key(edge) for edge in graph.edges}
    counted = count_names(keys)
    found = by_caption.values()
    return Coverage(
        captions=len(captions),
        changed=sum(implies_change(caption.text) for caption in captions),
        with_triple=len(by_caption),
        with_known_triple=sum(any(key in held for key in keys) for keys in found),
        all_entities=sum(all(key[0] in entities and key[2] in entities for key in keys) for keys in found),
        all_relations=sum(all(key[1] in relations for key in keys) for keys in found),
        all_triples=sum(all(key in held for key in keys) for keys in found),
        entities=_by_frequency(counted.entities, training.entities, entities),
        relations=_by_frequency(counted.relations, training.relations, relations),
        unknown=(_unknown(counted.entities, entities), _unknown(counted.relations, relations)),
    )


def _by_frequency(mentioned: Mapping[str, int], training: Mapping[str, int], known: set[str]) -> dict[str, KnownShare]:
    table = {}
    for low, high in _BINS:
        names = [name for name in mentioned if low <= training.get(name, 0) <= (high if high is not None else 10**12)]
        label = str(low) if high == low else f"{low}–{high}" if high is not None else f"{low}+"
        table[label] = KnownShare(
            sum(mentioned[name] for name in names), sum(mentioned[name] for name in names if name in known)
        )
    return table


def _unknown(mentioned: Mapping[str, int], known: set[str]) -> list[tuple[str, int]]:
    rest = Counter({name: count for name, count in mentioned.items() if name not in known})
    return sorted(rest.items(), key=lambda pair: (-pair[1], pair[0]))[:10]


def coverage_tables(found: Coverage, split: str) -> list[Table]:
    """Return the tables: captions, mentions by frequency in the training captions, unknown names."""
    captions = _table(f"{split}: {found.changed:,} changed captions", "of the changed captions", "captions", "share")
    for label, count in (
        ("with a triple", found.with_triple),
        ("with a triple of the graph", found.with_known_triple),
        ("all their entities in the graph", found.all_entities),
        ("all their relations in the graph", found.all_relations),
        ("all their triples in the graph", found.all_triples),
    ):
        captions.add_row(label, f"{count:,}", _share(count, found.changed))
    frequency = _table(
        "mentions, by how often the training captions name what is mentioned",
        "times in training", "entities", "known", "relations", "known",
    )  # fmt: skip
    for label, entities in found.entities.items():
        relations = found.relations[label]
        frequency.add_row(
            label,
            f"{entities.mentions:,}",
            _share(entities.known, entities.mentions),
            f"{relations.mentions:,}",
            _share(relations.known, relations.mentions),
        )
    unknown = Table("kind", "most frequent unknown names", title="what the graph does not know", title_justify="left")
    for kind, names in zip(("entities", "relations"), found.unknown, strict=True):
        unknown.add_row(kind, ", ".join(f"{name} ({count})" for name, count in names))
    return [captions, frequency, unknown]


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"
