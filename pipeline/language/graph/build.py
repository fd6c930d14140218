"""From statements to the graph: merge, filter, number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.language.graph.filtering import filter_statements
from pipeline.language.graph.merge_map import MergeMap
from pipeline.language.graph.merging import Merger, apply_merges, by_count, merge_names
from pipeline.language.graph.records import CaptionGraph, Key, build_graph, count_names
from pipeline.language.graph.settings import MergeSettings
from pipeline.language.text_encoders import TextEncoder


@dataclass(frozen=True)
class Built:
    """A graph and how it came about.

    Attributes:
        graph: What remains.
        merges: Which names became which.
        statements: Statements before filtering, one for each occurrence in a caption.
        kept: Statements that the graph holds.
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
        overrides: A person's decisions about names.
        encoder: Proposes names to merge; None where only the overrides decide.
        llm: Decides instead of the rule.

    Raises:
        DataError: There are no statements, or none is frequent enough.
    """
    merges = merge_names(count_names(statements), settings, overrides, encoder, llm)
    return rebuild(statements, min_count, merges)


def rebuild(statements: Sequence[Key], min_count: int, merges: MergeMap) -> Built:
    """Build the graph of statements with names merged as `merges` says; see `build`."""
    merged = apply_merges(statements, merges)
    kept = filter_statements(merged, min_count)
    before = count_names(statements)
    names = {
        kind: {
            stays: by_count({name: getattr(before, kind).get(name, 0) for name in (stays, *others)})
            for stays, others in getattr(merges, kind).items()
        }
        for kind in ("entities", "relations")
    }
    graph = build_graph(kept, count_names(merged), names)
    return Built(graph, merges, len(statements), sum(kept.values()), (len(set(statements)), len(set(merged))))
