"""A coverage report as tables for the terminal."""

from __future__ import annotations

from rich.table import Table

from pipeline.language.graph.coverage import Coverage


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
