"""The convention that every engine follows, and its one function: `canonical`.

Entities are lower-case singular noun heads without counts, measures and adjectives; a pair of words that names a class
stays ("swimming pool", "parking lot", "residential area"); "bare land" is "bareland". Places in the picture ("the top
left of the scene", "in the corner") are no entities; the picture itself is "scene".

Relations are lemmas joined by hyphens, in the active voice.

=====================================================  =================================================
the caption says                                       the triples
=====================================================  =================================================
A road and two houses appear on the bareland           ⟨road; appear-on; bareland⟩, ⟨house; appear-on; bareland⟩
Houses have been built on both sides of the road       ⟨house; build-along; road⟩
A villa is built on the left side of the road          ⟨villa; build-beside; road⟩
A house is built at the end of the road                ⟨house; build-at; road⟩
A villa appears in the woods near the road             ⟨villa; appear-in; woods⟩, ⟨villa; appear-near; road⟩
The trees along the road are removed                   ⟨tree; remove-along; road⟩
The houses on the grass are removed                    ⟨house; remove-from; grass⟩
A house appears; … in the upper left corner            ⟨house; appear; scene⟩
Trees are replaced by a house; a house takes the       ⟨house; replace; tree⟩
place of trees; trees turned into a house;
a house is built in place of trees
Trees near the road are replaced by houses             ⟨house; replace; tree⟩, ⟨house; near; road⟩
A road with villas built along appears                 ⟨road; appear; scene⟩, ⟨villa; build-along; road⟩
A road with villas on both sides is built on grass     ⟨road; build-on; grass⟩, ⟨villa; along; road⟩
A villa with a swimming pool appears                   ⟨villa; appear; scene⟩, ⟨villa; with; swimming pool⟩
A house surrounded by trees appears                    ⟨house; appear; scene⟩, ⟨tree; surround; house⟩
A road connecting the houses has been built            ⟨road; build; scene⟩, ⟨road; connect; house⟩
The road has been widened                              ⟨road; widen; scene⟩
There are houses on the bareland                       ⟨house; appear-on; bareland⟩
The trees are gone; there are no more trees            ⟨tree; disappear; scene⟩
Trees are removed to build a house                     ⟨tree; remove; scene⟩, ⟨house; build; scene⟩
Houses are built on the grass to replace the trees     ⟨house; build-on; grass⟩, ⟨house; replace; tree⟩
Houses are built to replace the trees                  ⟨house; replace; tree⟩
This area has been urbanised                           ⟨area; urbanise; scene⟩
The two scenes seem identical                          none
=====================================================  =================================================

So every place that belongs to the subject of an event, before the verb or after it, is a tail of that event; only where
something is replaced do places become spatial statements about the newcomer. A pronoun stands for the thing it refers
to; "with" is stated only where nothing else links the companion to its host. Two prepositions that say the same have
one name (`relations.SAME_PREPOSITION`).

The family follows from the relation (`relations.family_of`).
"""

from __future__ import annotations

from typing import Final

from pipeline.language.triples.entities import PLAIN_PLACES, SCENE, normalise_entity
from pipeline.language.triples.lemmas import word_set
from pipeline.language.triples.records import Family
from pipeline.language.triples.relations import (
    BECOME_VERBS,
    REPLACE,
    REPLACE_VERBS,
    family_of,
    normalise_relation,
    split_relation,
)

__all__ = ["PLAIN_PLACES", "SCENE", "canonical", "family_of", "normalise_entity", "normalise_relation"]

_WHOLE: Final = "area"
"""The scene where it is itself what an event is about: "this area was urbanised"."""
_AGENT: Final = frozenset(("by", "with"))
_PASSIVE_PLACES: Final = word_set("surround cover fill occupy enclose line flank border encircle dot frame")


def canonical(head: str, relation: str, tail: str | None) -> tuple[str, str, str, Family] | None:
    """Bring a triple in any writing to the convention.

    Entities and relation are normalised; "replaced by", "turned into", "becomes", "surrounded by" and their like are
    turned round; a tail that is missing or a mere place in the picture becomes "scene", and the preposition that led
    to it falls away.

    Returns:
        Head, relation, tail and family; None where no head or no relation remains, or where a thing would merely be
        in the scene (⟨house; near; scene⟩).
    """
    source = normalise_entity(head)
    target = normalise_entity(tail) if tail is not None else None
    name = normalise_relation(relation)
    if not name:
        return None
    verb, preposition = split_relation(name)
    becomes = verb in BECOME_VERBS and target not in (None, SCENE)
    if becomes or (verb in REPLACE_VERBS and preposition in _AGENT):
        source, target, name = target, source, REPLACE
    elif verb in REPLACE_VERBS or preposition == REPLACE:
        name = REPLACE
    elif verb in _PASSIVE_PLACES and preposition in _AGENT and target not in (None, SCENE):
        source, target, name = target, source, verb or name
    return settle(source, name, target)


def settle(source: str | None, name: str, target: str | None) -> tuple[str, str, str, Family] | None:
    """Finish a triple of normalised parts: the scene as tail, the family; see `canonical`."""
    target = target or SCENE
    verb, _ = split_relation(name)
    if source is None:
        return None
    if target == SCENE:
        if verb in (None, "be", "have"):
            return None
        name = verb
    if source == SCENE and name != REPLACE:
        source = _WHOLE
    return source, name, target, family_of(name)
