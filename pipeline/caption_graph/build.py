"""Building of the graph from statements: names are merged, rare ones dropped, nodes and edges numbered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.caption_graph.merging import MergeMap, Merger, apply_merges, by_count, merge_names
from pipeline.caption_graph.records import CaptionGraph, Key, build_graph, count_names
from pipeline.caption_graph.settings import MergeSettings
from pipeline.caption_graph.text_encoders import TextEncoder
from pipeline.errors import DataError


def filter_statements(statements: Iterable[Key], min_count: int) -> dict[Key, int]:
    """Keep the statements whose entities and relation each occur at least `min_count` times (k of Table 8).

    Occurrences are counted once, over all statements given, and not again after rare names are dropped.

    Returns:
        How often each remaining statement is made.

    Raises:
        DataError: There are no statements, or none remains; the message names the largest k that leaves one.
    """
    all_statements = list(statements)
    if not all_statements:
        raise DataError(
            "no triple was found in the training captions, so there is no graph",
            fix="look at the captions of the training split; they must be English sentences of change",
        )
    counts = count_names(all_statements)

    def rarest(key: Key) -> int:
        return min(counts.entities[key[0]], counts.relations[key[1]], counts.entities[key[2]])

    frequent = Counter(key for key in all_statements if rarest(key) >= min_count)
    if not frequent:
        largest = max(map(rarest, all_statements))
        raise DataError(
            f"no triple is left at k = {min_count}: every one of the {len(all_statements)} has an entity or a relation "
            f"that occurs less often",
            where="graph.build.min_count",
            fix=f"set graph.build.min_count to {largest} or less",
        )
    return dict(frequent)


@dataclass(frozen=True)
class Built:
    """Graph with its merges and counts.

    Attributes:
        graph: The graph.
        merges: The names that became one.
        statements: Statements before filtering, one for each occurrence in a caption.
        kept: Statements in the graph.
        distinct: Distinct triples before merging and after it.
    """

    graph: CaptionGraph
    merges: MergeMap
    statements: int
    kept: int
    distinct: tuple[int, int]


def build(
    statements: Sequence[Key],
    min_count: int,
    settings: MergeSettings,
    overrides: MergeMap,
    encoder: TextEncoder | None,
    llm: Merger | None = None,
) -> Built:
    """Build the graph of statements (section 3.4).

    Args:
        statements: Head, relation and tail of every statement in the captions, repeated as often as stated.
        min_count: k.
        settings: How names are merged.
        overrides: The user's decisions about names.
        encoder: Proposes names to merge; None where only the overrides decide.
        llm: Merger that decides instead of the rule.

    Raises:
        DataError: There are no statements, or none is frequent enough.
    """
    merges = merge_names(count_names(statements), settings, overrides, encoder, llm)
    return rebuild(statements, min_count, merges)


def rebuild(statements: Sequence[Key], min_count: int, merges: MergeMap) -> Built:
    """Build the graph of statements with names merged as `merges` says; see `build`."""
    merged = apply_merges(statements, merges)
    frequent = filter_statements(merged, min_count)
    before = count_names(statements)
    names = {
        kind: {
            target: by_count({name: getattr(before, kind).get(name, 0) for name in (target, *others)})
            for target, others in getattr(merges, kind).items()
        }
        for kind in ("entities", "relations")
    }
    graph = build_graph(frequent, count_names(merged), names)
    return Built(graph, merges, len(statements), sum(frequent.values()), (len(set(statements)), len(set(merged))))
