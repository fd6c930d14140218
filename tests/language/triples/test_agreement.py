from __future__ import annotations

import pytest

from pipeline.language.triples.agreement import agreement

_GOLD = {
    1: [("house", "build-along", "road", "appear"), ("tree", "remove", "scene", "disappear")],
    2: [("road", "replace", "tree", "replace")],
}


def test_equal_sets_agree_wholly() -> None:
    for measure in agreement(_GOLD, _GOLD).values():
        assert (measure.precision, measure.recall, measure.f1) == (1.0, 1.0, 1.0)


def test_each_view_forgives_what_it_does_not_compare() -> None:
    found = {
        1: [("house", "construct-along", "road", "appear"), ("tree", "widen", "scene", "other")],
        2: [("road", "replace", "bush", "replace"), ("road", "replace", "tree", "replace")],
    }
    table = agreement(found, _GOLD)
    assert {name: (m.correct, m.found, m.expected) for name, m in table.items()} == {
        "head, tail": (3, 4, 3),
        "family": (2, 4, 3),
        "triple": (1, 4, 3),
    }
    assert table["family"].precision == pytest.approx(0.5)
    assert table["family"].recall == pytest.approx(2 / 3)
    assert table["family"].f1 == pytest.approx(4 / 7)


def test_triples_of_another_caption_do_not_count() -> None:
    moved = {1: _GOLD[2], 2: _GOLD[1]}
    assert agreement(moved, _GOLD)["triple"].correct == 0


def test_captions_that_one_side_lacks_count_as_empty() -> None:
    table = agreement({}, _GOLD)
    assert (table["triple"].found, table["triple"].expected, table["triple"].recall) == (0, 3, 0.0)
    assert agreement(_GOLD, {})["triple"].precision == 0.0
    assert agreement({}, {})["triple"].f1 == 1.0
