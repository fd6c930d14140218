"""Entities: from the words of a caption to the lower-case singular noun of a thing on the ground."""

from __future__ import annotations

from typing import Final

from pipeline.language.tokenizer import tokenize
from pipeline.language.triples.lemmas import noun_lemma, word_set

SCENE: Final = "scene"
"""The tail of a statement that names no second entity; words for the picture as a whole come to it as well."""

SCENE_WORDS: Final = word_set("scene scenery image picture photo photograph screen view map frame")
PLAIN_PLACES: Final = word_set("area region place zone location territory")
"""Words that mean the scene when they stand alone ("in this area"), and a thing with a word before ("green area")."""

PARTS: Final = word_set(
    "side part corner edge end middle center centre top bottom left right half quarter third front rest border "
    "boundary upper lower lower-left lower-right upper-left upper-right bottom-left bottom-right top-left top-right "
    "north south east west northeast northwest southeast southwest remainder portion section fringe foot periphery "
    "size length height direction position level angle surface width shape"
)
"""Places in the picture and parts of a thing: no entities themselves; "corner of the road" is the road."""

NUMBERS: Final = word_set("one two three four five six seven eight nine ten")
MEASURES: Final = NUMBERS | word_set(
    "complex row line group number lot piece cluster series set batch couple pair variety amount majority plenty "
    "patch bunch quantity mass clump array tract strip stretch expanse bit deal handful dozen column layer kind type "
    "circle most some many several few all both each any none hundred "
    "thousand half part quarter majority rest remainder"
)
"""Words that count or measure what follows "of": "rows of houses" is the houses."""

REFERRING: Final = word_set(
    "it they them its their this that these those one ones other others another which who whom what something "
    "everything nothing anything all some many more most both each there"
)
"""Words that stand for a thing named elsewhere."""

_COUNTS: Final = NUMBERS | word_set("several few")
_DETERMINERS: Final = word_set("the this that whole entire these those its same")

_STOPS: Final = word_set(
    "of in on at along alongside near beside beneath between among around by with from to into through across behind "
    "above below under over inside outside within opposite for"
)

_CLASSES: Final = {
    "parking": "lot space area",
    "car": "park",
    "swimming": "pool",
    "water": "pool tower tank park",
    "storage": "tank room",
    "oil": "tank",
    "residential": "area district community quarter zone complex block",
    "industrial": "area zone park complex",
    "commercial": "area",
    "villa": "area",
    "housing": "estate area development",
    "urban": "area",
    "service": "area",
    "teaching": "area building",
    "construction": "site area",
    "building": "site complex",
    "open": "space",
    "green": "space area belt land",
    "vacant": "lot",
    "street": "block",
    "city": "block",
    "road": "network",
    "traffic": "circle light",
    "basketball": "court field",
    "tennis": "court",
    "volleyball": "court",
    "football": "court field pitch",
    "soccer": "field pitch",
    "baseball": "field",
    "sports": "field ground court venue",
    "playing": "field ground",
    "golf": "course",
    "amusement": "park",
    "race": "track course",
    "running": "track",
    "power": "tower station plant grid",
    "gas": "station",
    "train": "station",
    "bus": "station stop",
    "railway": "station line",
    "shopping": "mall center centre",
    "office": "building",
    "apartment": "building block",
    "telegraph": "pole",
    "utility": "pole",
    "solar": "panel",
    "palm": "island",
}
COMPOUNDS: Final = frozenset((first, last) for first, lasts in _CLASSES.items() for last in lasts.split())
"""Pairs of words (the second in the singular) that together name a class of things."""

FUSED: Final = {
    ("bare", "land"): "bareland",
    ("bare", "ground"): "bareland",
    ("bare", "soil"): "bareland",
    ("bare", "area"): "bareland",
    ("waste", "land"): "wasteland",
    ("grass", "land"): "grassland",
    ("wood", "land"): "woodland",
    ("woods", "land"): "woodland",
    ("desert", "area"): "desert",
    ("forest", "area"): "forest",
    ("forest", "land"): "forest",
    ("farm", "land"): "farmland",
    ("cross", "road"): "crossroad",
    ("road", "side"): "roadside",
    ("play", "ground"): "playground",
    ("t", "junction"): "t-junction",
    ("round", "about"): "roundabout",
    ("ware", "house"): "warehouse",
    ("green", "house"): "greenhouse",
}
"""Classes that annotators write as two words and as one."""


def normalise_entity(phrase: str) -> str | None:
    """Bring a noun phrase to its entity.

    Articles, counts, measures ("two rows of") and adjectives fall away; the head noun comes into the singular; a pair
    of words that names a class stays together (`COMPOUNDS`) or is fused (`FUSED`). What follows a preposition or a
    comma is left out, except after "of", where the phrase is only a part or a measure of what follows.

    Returns:
        The entity; `SCENE` for the picture as a whole; None for a mere place in the picture ("the top left"), a word
        that refers to something else ("them"), and a phrase without a word.
    """
    words = list(tokenize(phrase.split(",")[0]))
    for position, word in enumerate(words):
        if word in _STOPS and position > 0:
            words, rest = words[:position], words[position + 1 :]
            if word == "of" and rest and noun_lemma(words[-1]) in MEASURES | PARTS:
                return normalise_entity(" ".join(rest))
            break
    return entity_of(words)


def entity_of(words: list[str]) -> str | None:
    """Bring the words of one plain noun phrase, without prepositions, to its entity; see `normalise_entity`."""
    if not words:
        return None
    lemma = noun_lemma(words[-1])
    if len(words) > 1:
        pair = words[-2], lemma
        if pair in FUSED:
            return FUSED[pair]
        if pair in COMPOUNDS:
            return f"{pair[0]} {lemma}"
    if lemma in SCENE_WORDS:
        return SCENE
    if lemma in PLAIN_PLACES and all(word in _DETERMINERS for word in words[:-1]):
        return SCENE
    if lemma in PARTS or words[-1] in REFERRING or lemma in _COUNTS or not any(c.isalpha() for c in lemma):
        return None
    return lemma
