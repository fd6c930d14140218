from __future__ import annotations

import pytest

from pipeline.caption_graph.build import filter_statements, rebuild
from pipeline.caption_graph.merging import MergeMap
from pipeline.caption_graph.records import CaptionGraph
from pipeline.errors import DataError
from tests.caption_graph.conftest import STATEMENTS, repeated


def test_rare_names_are_dropped_with_what_they_leave_isolated() -> None:
    frequent = filter_statements(repeated(STATEMENTS), 4)
    # villa (3) and replace (3) are too rare; so "build-along" remains for the house, and the tree for its removal.
    assert frequent == {
        ("house", "build-along", "road"): 6,
        ("road", "appear-on", "bareland"): 4,
        ("tree", "remove", "scene"): 5,
    }
    graph = rebuild(repeated(STATEMENTS), 5, MergeMap()).graph
    assert [entity.name for entity in graph.entities] == ["road", "house", "tree", "scene"]
    assert {relation.name for relation in graph.relations} == {"build-along", "remove"}


def test_counts_and_order(graph: CaptionGraph) -> None:
    assert [(entity.name, entity.count) for entity in graph.entities][:3] == [("road", 15), ("house", 8), ("tree", 7)]
    assert {relation.name: relation.family for relation in graph.relations}["remove"] == "disappear"
    assert sum(edge.count for edge in graph.edges) == sum(STATEMENTS.values())
    assert list(graph.edges) == sorted(graph.edges)


def test_the_order_of_captions_does_not_matter(graph: CaptionGraph) -> None:
    assert rebuild(repeated(STATEMENTS)[::-1], 1, MergeMap()).graph == graph


def test_merged_statements_are_one_triple_and_count_together() -> None:
    built = rebuild(repeated(STATEMENTS), 1, MergeMap({"house": ("villa",)}, {}))
    edges = {built.graph.key(edge): edge.count for edge in built.graph.edges}
    assert edges["house", "build-along", "road"] == 9
    assert built.graph.entities[built.graph.entity_index["villa"]].names == ("house", "villa")
    assert built.distinct == (6, 5)


def test_a_k_that_leaves_nothing_names_the_largest_that_does_not() -> None:
    with pytest.raises(DataError, match="no triple is left at k = 50") as caught:
        filter_statements(repeated(STATEMENTS), 50)
    assert "to 8 or less" in str(caught.value)
    assert filter_statements(repeated(STATEMENTS), 8)
    with pytest.raises(DataError):
        filter_statements(repeated(STATEMENTS), 9)


def test_no_statements_is_an_error_of_its_own() -> None:
    with pytest.raises(DataError, match="no triple was found"):
        filter_statements([], 1)
