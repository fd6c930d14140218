from __future__ import annotations

import pytest

from pipeline.caption_graph.triples.normalisation import (
    canonical,
    family_of,
    normalise_entity,
    normalise_relation,
    noun_lemma,
    split_relation,
    verb_lemma,
)


@pytest.mark.parametrize(
    ("phrase", "entity"),
    [
        ("the two large houses", "house"),
        ("Swimming Pools", "swimming pool"),
        ("a parking lot", "parking lot"),
        ("new residential areas", "residential area"),
        ("bare land", "bareland"),
        ("some barelands", "bareland"),
        ("two rows of neatly arranged villas", "villa"),
        ("most of the trees", "tree"),
        ("the corner of the road", "road"),
        ("the woods", "woods"),
        ("wood", "woods"),
        ("crossroads", "crossroad"),
        ("a cement road beside the lake", "road"),
        ("the scene", "scene"),
        ("this area", "scene"),
        ("a green area", "green area"),
        ("a wooded area", "area"),
        ("the top left of the scene", "scene"),
        ("the upper left corner", None),
        ("them", None),
        ("", None),
        ("...", None),
        ("3", None),
    ],
)
def test_entities_are_singular_heads(phrase: str, entity: str | None) -> None:
    assert normalise_entity(phrase) == entity


@pytest.mark.parametrize(
    ("relation", "name"),
    [
        ("appears on", "appear-on"),
        ("has been built along", "build-along"),
        ("are newly constructed inside", "construct-in"),
        ("show_up in", "show-up-in"),
        ("cut down from", "cut-down-from"),
        ("removed on", "remove-from"),
        ("on both sides of", "along"),
        ("next to", "next-to"),
        ("is next to", "next-to"),
        ("is", "be"),
        ("", ""),
        ("…", ""),
    ],
)
def test_relations_are_hyphenated_lemmas(relation: str, name: str) -> None:
    assert normalise_relation(relation) == name


@pytest.mark.parametrize(
    ("relation", "family"),
    [
        ("appear-on", "appear"),
        ("build-in-front-of", "appear"),
        ("remove-from", "disappear"),
        ("cut-down", "disappear"),
        ("replace", "replace"),
        ("along", "spatial"),
        ("next-to", "spatial"),
        ("connect-to", "spatial"),
        ("with", "spatial"),
        ("widen", "other"),
        ("unheard-of", "other"),
    ],
)
def test_the_relation_decides_the_family(relation: str, family: str) -> None:
    assert family_of(relation) == family


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("two rows of houses", "built along", "the road"), ("house", "build-along", "road", "appear")),
        (("the trees", "are replaced by", "a house"), ("house", "replace", "tree", "replace")),
        (("a lake", "turned into", "a parking lot"), ("parking lot", "replace", "lake", "replace")),
        (("the house", "surrounded by", "trees"), ("tree", "surround", "house", "spatial")),
        (("a house", "appears in", "the upper left corner"), ("house", "appear", "scene", "appear")),
        (("a house", "appears", None), ("house", "appear", "scene", "appear")),
        (("the area", "urbanised", None), ("area", "urbanise", "scene", "other")),
        (("a house", "near", "the scene"), None),
        (("them", "appear", None), None),
        (("a house", "", "road"), None),
    ],
)
def test_triples_in_any_writing_become_canonical(
    given: tuple[str, str, str | None], expected: tuple[str, str, str, str] | None
) -> None:
    assert canonical(*given) == expected


def test_canonical_triples_stay_as_they_are() -> None:
    for head, relation, tail in [
        ("house", "build-along", "road"),
        ("road", "replace", "tree"),
        ("tree", "remove-from", "grass"),
    ]:
        assert canonical(head, relation, tail) == (head, relation, tail, family_of(relation))


@pytest.mark.parametrize(
    ("relation", "expected"),
    [
        ("show-up-along", ("show-up", "along")),
        ("show-up", ("show-up", None)),
        ("in-front-of", (None, "in-front-of")),
        ("appear-next-to", ("appear", "next-to")),
        ("widen", ("widen", None)),
    ],
)
def test_relations_come_apart(relation: str, expected: tuple[str | None, str | None]) -> None:
    assert split_relation(relation) == expected


def test_lemmas() -> None:
    assert [
        noun_lemma(word) for word in ("houses", "bushes", "factories", "grass", "buses", "villas", "t-junctions")
    ] == [
        "house",
        "bush",
        "factory",
        "grass",
        "bus",
        "villa",
        "t-junction",
    ]
    assert [verb_lemma(word) for word in ("built", "developed", "lying", "leads", "planted", "grown", "xyzzy")] == [
        "build",
        "develop",
        "lie",
        "lead",
        "plant",
        "grow",
        "xyzzy",
    ]
