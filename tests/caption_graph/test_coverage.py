from __future__ import annotations

import json

import pytest

from pipeline.caption_graph.build import rebuild
from pipeline.caption_graph.coverage import coverage, find_entity
from pipeline.caption_graph.merging import MergeMap
from pipeline.caption_graph.records import CaptionGraph, count_names
from pipeline.caption_graph.triples.records import Caption, Triple
from pipeline.errors import DataError
from tests.caption_graph.conftest import STATEMENTS, repeated


def test_entities_are_found_by_what_people_type(graph: CaptionGraph) -> None:
    road = graph.entity_index["road"]
    assert find_entity(graph, "road") == find_entity(graph, "The Roads") == road
    with pytest.raises(DataError, match="no entity 'rood'") as caught:
        find_entity(graph, "rood")
    assert "road" in str(caught.value)


def _triple(sentence: int, head: str, relation: str, tail: str) -> Triple:
    return Triple(
        head=head, relation=relation, tail=tail, family="appear", engine="rules", pair="p", sentence=sentence,
        span=(0, 1),
    )  # fmt: skip


def test_coverage_counts_captions_and_mentions() -> None:
    statements = repeated(STATEMENTS)
    graph = rebuild(statements, 4, MergeMap()).graph
    captions = [
        Caption(pair="p", sentence=number, text=text)
        for number, text in enumerate(["a house is built", "a villa appears", "a mast appears", "no change"])
    ]
    triples = [
        _triple(0, "house", "build-along", "road"),
        _triple(1, "villa", "build-along", "road"),
        _triple(1, "road", "appear-on", "bareland"),
        _triple(2, "mast", "fly-on", "road"),
    ]
    covered = coverage(graph, MergeMap(), count_names(statements), captions, triples)
    assert (covered.captions, covered.changed, covered.with_triple) == (4, 3, 3)
    assert (covered.with_known_triple, covered.all_entities, covered.all_relations, covered.all_triples) == (2, 1, 2, 1)
    assert (covered.entities["0"].mentions, covered.entities["0"].in_graph) == (1, 0)
    assert sum(share.mentions for share in covered.entities.values()) == 8
    assert covered.unknown[0] == [("mast", 1), ("villa", 1)]
    assert json.loads(json.dumps(covered.values()))["relations"]["0"] == {"mentions": 1, "known": 0}
