"""Change captions made from a pattern, so that their triples are known."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from pipeline.caption_graph.triples.records import Caption

HEADS = ("house", "road", "villa", "tree", "building", "parking lot", "swimming pool", "lake", "factory", "warehouse")
TAILS = ("grass", "bareland", "woods", "field", "desert", "lawn", "river", "meadow", "shore", "hill")
VERBS = ("appear", "build", "emerge", "vanish", "remain")
PLACES = ("on the left", "on the right", "at the top", "at the bottom")

_FORMS = {"appear": "appears", "build": "is built", "emerge": "emerges", "vanish": "vanishes", "remain": "remains"}


def make_captions(count: int) -> list[Caption]:
    """The first `count` of 2,000 distinct captions: "a new house appears near the grass on the left"."""
    cases = list(product(PLACES, VERBS, TAILS, HEADS))[:count]
    return [
        Caption(
            pair=f"pair_{number // 5:04}",
            sentence=number % 5,
            text=f"a new {head} {_FORMS[verb]} near the {tail} {position} .",
        )
        for number, (position, verb, tail, head) in enumerate(cases)
    ]


def oracle(item: Mapping[str, Any]) -> dict[str, Any]:
    """The right answer to one of these captions, or to a group of names: the same first letter, the same cluster."""
    if "names" in item:
        letters = dict.fromkeys(name[0] for name in item["names"])
        return {"clusters": [[name for name in item["names"] if name[0] == letter] for letter in letters]}
    caption = item["caption"]
    verb = next((verb for verb, form in _FORMS.items() if f" {form} near the " in caption), None)
    if verb is None:
        return {"triples": []}
    before, after = caption.removeprefix("a new ").split(f" {_FORMS[verb]} near the ")
    tail = after.split()[0]
    evidence = f"a new {before} {_FORMS[verb]} near the {tail}"
    return {"triples": [{"head": before, "relation": f"{verb}-near", "tail": tail, "evidence": evidence}]}
