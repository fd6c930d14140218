from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.caption_graph.triples.records import Triple, agreement, captions_of, read_triples, write_triples
from pipeline.datasets.records import Pair
from pipeline.errors import DataError

LABELS = {
    1: [("house", "build-along", "road", "appear"), ("tree", "remove", "scene", "disappear")],
    2: [("road", "replace", "tree", "replace")],
}


def test_equal_sets_agree_wholly() -> None:
    for measure in agreement(LABELS, LABELS).values():
        assert (measure.precision, measure.recall, measure.f1) == (1.0, 1.0, 1.0)


def test_each_view_forgives_what_it_does_not_compare() -> None:
    predicted = {
        1: [("house", "construct-along", "road", "appear"), ("tree", "widen", "scene", "other")],
        2: [("road", "replace", "bush", "replace"), ("road", "replace", "tree", "replace")],
    }
    table = agreement(predicted, LABELS)
    assert {name: (m.true_positives, m.predicted, m.expected) for name, m in table.items()} == {
        "head, tail": (3, 4, 3),
        "family": (2, 4, 3),
        "triple": (1, 4, 3),
    }
    assert table["family"].precision == pytest.approx(0.5)
    assert table["family"].recall == pytest.approx(2 / 3)
    assert table["family"].f1 == pytest.approx(4 / 7)


def test_triples_of_another_caption_do_not_count() -> None:
    moved = {1: LABELS[2], 2: LABELS[1]}
    assert agreement(moved, LABELS)["triple"].true_positives == 0


def test_captions_that_one_side_lacks_count_as_empty() -> None:
    table = agreement({}, LABELS)
    assert (table["triple"].predicted, table["triple"].expected, table["triple"].recall) == (0, 3, 0.0)
    assert agreement(LABELS, {})["triple"].precision == 0.0
    assert agreement({}, {})["triple"].f1 == 1.0


def triple(**changes: Any) -> Triple:
    values: dict[str, Any] = {
        "head": "house",
        "relation": "appear-on",
        "tail": "bareland",
        "family": "appear",
        "engine": "rules",
        "pair": "pair-1",
        "sentence": 2,
        "span": (0, 12),
    }
    return Triple(**{**values, **changes})


def test_triples_come_back_from_their_file(tmp_path: Path) -> None:
    triples = [triple(), triple(head="café", sentence=3)]
    path = write_triples(tmp_path / "triples.jsonl", triples)
    assert read_triples(path) == triples
    assert path.read_text(encoding="utf-8").splitlines()[0] == (
        '{"head": "house", "relation": "appear-on", "tail": "bareland", "family": "appear", "engine": "rules", '
        '"pair": "pair-1", "sentence": 2, "evidence": [0, 12]}'
    )


def test_no_triples_are_an_empty_file(tmp_path: Path) -> None:
    assert read_triples(write_triples(tmp_path / "triples.jsonl", [])) == []


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = write_triples(tmp_path / "triples.jsonl", [triple(), triple()])
    path.write_text(path.read_text(encoding="utf-8").replace('"appear"', '"arrive"', 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1 is no triple: family"):
        read_triples(path)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = write_triples(tmp_path / "triples.jsonl", [triple()])
    path.write_text(path.read_text(encoding="utf-8") + "{truncated\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2 is no triple"):
        read_triples(path)


def test_a_missing_file_and_foreign_bytes_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_triples(tmp_path / "absent.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9")
    with pytest.raises(DataError, match="not UTF-8"):
        read_triples(tmp_path / "latin.jsonl")


@pytest.mark.parametrize("span", [(3, 3), (4, 2), (-1, 2)])
def test_spans_are_in_order(span: tuple[int, int]) -> None:
    with pytest.raises(ValidationError, match="span"):
        triple(span=span)


def test_captions_of_pairs_are_numbered_per_pair() -> None:
    pairs = [
        Pair(id="a", split="train", before="b", after="c", captions=("one", "two")),
        Pair(id="b", split="train", before="b", after="c"),
        Pair(id="c", split="train", before="b", after="c", captions=("three",)),
    ]
    assert [(caption.pair, caption.sentence, caption.text) for caption in captions_of(pairs)] == [
        ("a", 0, "one"),
        ("a", 1, "two"),
        ("c", 0, "three"),
    ]
