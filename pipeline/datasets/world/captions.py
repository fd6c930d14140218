"""Captions: a template of clauses for each kind of event, and five sentences per pair with the triples they state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.datasets.adapters.levir_cc import NO_CHANGE
from pipeline.datasets.world import phrases
from pipeline.datasets.world.facts import Event
from pipeline.datasets.world.phrases import (
    GROUND_NOUNS,
    Clause,
    Complement,
    Noun,
    Triple,
    Verb,
    clause,
    event_triples,
    ground_complement,
    pick,
    position_complement,
    replacement,
)

ClauseTemplate = Callable[[np.random.Generator, Event, float], Clause]
"""Returns a clause about an event; the number is the probability that it names the position in the picture."""

_HALL = [Noun("a large building", "building", False)] * 3 + [
    Noun("a big building", "building", False),
    Noun("a building", "building", False),
]
_PARKING = Noun("a parking lot", "parking lot", False)


def _position(generator: np.random.Generator, event: Event, chance: float) -> list[Complement]:
    complement = position_complement(generator, event.place)
    return [complement] if complement is not None and generator.random() < chance else []


def _replaced(generator: np.random.Generator, event: Event, old: Noun, new: Noun, chance: float) -> Clause:
    positions = _position(generator, event, chance)
    return replacement(generator, old, new, position=positions[0] if positions else None)


def _beside(generator: np.random.Generator, event: Event) -> Complement:
    if event.both_sides and generator.random() < 0.5:
        return Complement("on both sides of the road", "on-both-sides-of", "road")
    road = "the roads" if event.several_roads else "the road"
    word = pick(generator, ["along", "beside", "near", "next to"] if event.count > 1 else ["beside", "near", "next to"])
    return Complement(f"{word} {road}", word.replace(" ", "-"), "road")


def _trees(generator: np.random.Generator, amount: str) -> Noun:
    return Noun(pick(generator, [f"{amount} trees", "trees"], [2, 1]), "tree", True)


def _where(generator: np.random.Generator, event: Event, chance: float, *, road: bool = True) -> list[Complement]:
    """Return at most two complements: beside the road, the ground, the position in the picture."""
    complements: list[Complement] = []
    if road and event.beside_road and generator.random() < 0.6:
        complements.append(_beside(generator, event))
    if event.ground and generator.random() < (0.25 if complements else 0.45):
        complements.append(ground_complement(generator, event.ground))
    return complements[:2] if len(complements) == 2 else complements + _position(generator, event, chance)


def _joined(first: Clause, second: Clause) -> Clause:
    return Clause(f"{first.text} and {second.text}", first.triples + second.triples)


def houses_clause(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    """Return a clause about houses that appear."""
    new = phrases.houses(generator, event)
    draw = generator.random()
    if event.trees_lost and draw < 0.35:
        trees = clause(_trees(generator, event.trees_lost), pick(generator, phrases.FELLED))
        rest = [_beside(generator, event)] if event.beside_road and generator.random() < 0.5 else []
        rest = rest or _position(generator, event, chance)
        return _joined(trees, clause(new, pick(generator, phrases.ERECTED), rest))
    if event.ground and draw < 0.5 and event.count > 1:
        return _replaced(generator, event, pick(generator, GROUND_NOUNS[event.ground]), new, chance)
    if event.among_houses and draw > 0.82:
        area = Complement("in the residential area", "in", "residential area")
        if generator.random() < 0.4:
            added = Verb("is added", "are added", "add", "appear")
            return clause(new, added, [Complement("to the residential area", "to", "residential area")])
        return clause(new, pick(generator, phrases.BUILT), [area])
    return clause(new, pick(generator, phrases.ERECTED), _where(generator, event, chance))


def houses_demolished_clause(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    """Return a clause about houses that disappear."""
    old = phrases.houses(generator, event, new=False)
    draw = generator.random()
    if draw < 0.2:
        return _replaced(generator, event, old, Noun("bareland", "bareland", False), chance)
    if event.beside_road and draw < 0.5:
        beside = _beside(generator, event)
        gone = clause(Noun(f"{old.text} {beside.text}", old.entity, old.plural), pick(generator, phrases.DEMOLISHED))
        return Clause(gone.text, (*gone.triples, Triple(old.entity, beside.preposition, "road", "spatial")))
    return clause(old, pick(generator, phrases.DEMOLISHED), _position(generator, event, chance))


def _new_road(generator: np.random.Generator, event: Event) -> Noun:
    plain = [Noun("a road", "road", False), Noun("a new road", "road", False)]
    if event.form == "crossroad":
        return pick(
            generator, [Noun("a crossroad", "crossroad", False)] * 3 + [Noun("two crossing roads", "road", True)]
        )
    if event.form == "t-shaped":
        return pick(generator, [Noun("a t-shaped road", "road", False)] * 2 + [Noun("two roads", "road", True)])
    if event.form == "parallel":
        return pick(generator, [Noun("two roads", "road", True), Noun("two parallel roads", "road", True)])
    if event.form == "curved":
        return pick(generator, [*plain, Noun("a curved road", "road", False), Noun("a turning road", "road", False)])
    if event.form == "winding":
        return pick(generator, [*plain, Noun("a winding road", "road", False), Noun("a winding road", "road", False)])
    if event.heading:
        return pick(generator, [*plain, Noun(f"a {event.heading} road", "road", False)])
    return pick(generator, [*plain, Noun("a straight road", "road", False)])


def road_clause(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    """Return a clause about roads that appear."""
    road = _new_road(generator, event)
    draw = generator.random()
    if event.trees_lost and draw < 0.4:
        trees = clause(_trees(generator, event.trees_lost), pick(generator, phrases.FELLED))
        return _joined(trees, clause(road, pick(generator, phrases.BUILT), _position(generator, event, chance)))
    if event.form == "branch" and draw < 0.65:
        verb = Verb("is built to join", "are built to join", "join", "spatial")
        return Clause(
            f"{road.text} {verb.form(road.plural)} the old road", (Triple(road.entity, "join", "road", "spatial"),)
        )
    if event.ground and draw > 0.8:
        verb = Verb("crosses", "cross", "cross", "spatial")
        ground = pick(generator, GROUND_NOUNS[event.ground])
        text = f"{road.text} {verb.form(road.plural)} {ground.text}"
        return Clause(text, (Triple(road.entity, "cross", ground.entity, "spatial"),))
    return clause(road, pick(generator, phrases.BUILT), _where(generator, event, chance, road=False))


def road_and_houses_clause(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    """Return a clause about a road that appears with houses along it."""
    road, new = _new_road(generator, event), phrases.houses(generator, event)
    verb = pick(generator, phrases.BUILT)
    along = Triple(new.entity, "build-along", road.entity, "appear")
    it = "them" if road.plural else "it"
    rest = _where(generator, event, chance * 0.7, road=False)
    draw = generator.random()
    if event.trees_lost and draw < 0.3:
        both = Noun(f"{road.text} and {new.text}", road.entity, True)
        trees = clause(_trees(generator, event.trees_lost), pick(generator, phrases.FELLED))
        built = Clause(
            f"{both.text} {verb.form(True)}", event_triples(road.entity, verb, []) + event_triples(new.entity, verb, [])
        )
        return _joined(trees, built)
    if draw < 0.5:
        text = " ".join([f"{road.text} and {new.text} {verb.form(True)}", *(c.text for c in rest)])
        return Clause(text, event_triples(road.entity, verb, rest) + event_triples(new.entity, verb, rest))
    if draw < 0.7:
        text = " ".join(
            [f"{road.text} with {new.text} built along {it} {verb.form(road.plural)}", *(c.text for c in rest)]
        )
        return Clause(text, (*event_triples(road.entity, verb, rest), along))
    if draw < 0.85:
        other = pick(generator, [v for v in phrases.BUILT if v.family == "appear"])
        word = pick(generator, ["along", "beside"])
        text = f"{road.text} {verb.form(road.plural)} and {new.text} {other.form(new.plural)} {word} {it}"
        return Clause(
            text,
            (*event_triples(road.entity, verb, []), Triple(new.entity, f"{other.lemma}-{word}", road.entity, "appear")),
        )
    roads = "the new roads" if road.plural or event.form == "crossroad" else "the new road"
    return clause(new, verb, [Complement(f"along {roads}", "along", "road"), *_position(generator, event, chance)])


def _altered(verbs: list[Verb]) -> ClauseTemplate:
    def template(generator: np.random.Generator, event: Event, chance: float) -> Clause:
        road = pick(generator, [Noun("the road", "road", False)] * 3 + [Noun("the original road", "road", False)])
        return clause(road, pick(generator, verbs), _position(generator, event, chance))

    return template


def large_building_clause(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    """Return a clause about a large building that appears, perhaps with a parking lot."""
    hall = pick(generator, _HALL)
    verb = pick(generator, phrases.ERECTED)
    draw = generator.random()
    if event.companion and draw < 0.6:
        rest = _where(generator, event, chance)
        if draw < 0.35:
            text = " ".join([f"{hall.text} with a parking lot {verb.form(False)}", *(c.text for c in rest)])
            spatial = Triple(hall.entity, "with", _PARKING.entity, "spatial")
            return Clause(text, (*event_triples(hall.entity, verb, rest), spatial))
        verb = pick(generator, phrases.BUILT)
        text = " ".join([f"{hall.text} and a parking lot {verb.form(True)}", *(c.text for c in rest)])
        return Clause(text, event_triples(hall.entity, verb, rest) + event_triples(_PARKING.entity, verb, rest))
    return _thing(generator, event, chance, hall, phrases.ERECTED)


def _thing(generator: np.random.Generator, event: Event, chance: float, thing: Noun, verbs: list[Verb]) -> Clause:
    draw = generator.random()
    if event.trees_lost and draw < 0.35:
        trees = clause(_trees(generator, event.trees_lost), pick(generator, phrases.FELLED))
        return _joined(trees, clause(thing, pick(generator, verbs), _position(generator, event, chance)))
    if event.ground and draw < 0.5:
        return _replaced(generator, event, pick(generator, GROUND_NOUNS[event.ground]), thing, chance)
    return clause(thing, pick(generator, verbs), _where(generator, event, chance))


def _single(things: list[Noun], verbs: list[Verb]) -> ClauseTemplate:
    def template(generator: np.random.Generator, event: Event, chance: float) -> Clause:
        return _thing(generator, event, chance, pick(generator, things), verbs)

    return template


def swimming_pool_clause(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    """Return a clause about a swimming pool that appears beside a house."""
    word = pick(generator, ["beside", "near", "next to"])
    house = pick(generator, ["house", "villa"])
    beside = Complement(f"{word} the {house}", word.replace(" ", "-"), house)
    rest = [beside] if generator.random() < 0.6 else []
    pool = Noun("a swimming pool", "swimming pool", False)
    return clause(pool, pick(generator, phrases.BUILT), rest + _position(generator, event, chance))


def building_demolished_clause(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    """Return a clause about a large building that disappears."""
    hall = pick(generator, [*_HALL, Noun("the large building", "building", False)])
    if generator.random() < 0.25:
        return _replaced(generator, event, hall, Noun("bareland", "bareland", False), chance)
    return clause(hall, pick(generator, phrases.DEMOLISHED), _position(generator, event, chance))


def pond_dried_clause(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    """Return a clause about a pond that disappears."""
    water = pick(
        generator, [Noun("the pond", "pond", False), Noun("a pond", "pond", False), Noun("the lake", "lake", False)]
    )
    if generator.random() < 0.3:
        return _replaced(generator, event, water, Noun("bareland", "bareland", False), chance)
    return clause(water, pick(generator, phrases.DRIED), _position(generator, event, chance))


def houses_replaced_clause(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    """Return a clause about houses that are replaced by a large building."""
    old, hall = phrases.houses(generator, event, new=False), pick(generator, _HALL[:4])
    if generator.random() < 0.6:
        return _replaced(generator, event, old, hall, chance)
    gone = clause(old, pick(generator, phrases.DEMOLISHED))
    return _joined(gone, clause(hall, pick(generator, phrases.ERECTED), _position(generator, event, chance)))


def trees_removed_clause(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    """Return a clause about a grove that disappears."""
    trees = _trees(generator, event.amount)
    if event.few_trees_left and generator.random() < 0.5:
        trees = pick(generator, GROUND_NOUNS["tree"])
    if generator.random() < 0.3:
        return _replaced(generator, event, trees, Noun("bareland", "bareland", False), chance)
    return clause(trees, pick(generator, phrases.FELLED), _position(generator, event, chance))


def trees_planted_clause(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    """Return a clause about a grove that appears."""
    trees = _trees(generator, event.amount)
    if event.ground and generator.random() < 0.25:
        return _replaced(generator, event, pick(generator, GROUND_NOUNS[event.ground]), trees, chance)
    return clause(trees, pick(generator, phrases.PLANTED), _where(generator, event, chance, road=False))


def grassland_removed_clause(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    """Return a clause about grassland that becomes bare ground."""
    grass = pick(generator, [*GROUND_NOUNS["grassland"], Noun("the vegetation", "vegetation", False)])
    bare = Noun("bareland", "bareland", False)
    if generator.random() < 0.2:
        return clause(bare, pick(generator, phrases.CAME), [ground_complement(generator, "grassland")])
    if generator.random() < 0.4:
        grass = Noun(f"part of {grass.text}", grass.entity, False)
    if generator.random() < 0.5:
        return _replaced(generator, event, grass, bare, chance)
    return clause(grass, pick(generator, phrases.GONE), _position(generator, event, chance))


CLAUSE_TEMPLATES: dict[str, ClauseTemplate] = {
    "houses": houses_clause,
    "road and houses": road_and_houses_clause,
    "road": road_clause,
    "road extended": _altered(phrases.EXTENDED),
    "road widened": _altered(phrases.WIDENED),
    "large building": large_building_clause,
    "parking lot": _single([_PARKING], phrases.BUILT),
    "trees removed": trees_removed_clause,
    "grassland removed": grassland_removed_clause,
    "houses demolished": houses_demolished_clause,
    "building demolished": building_demolished_clause,
    "pond": _single([Noun("a pond", "pond", False), Noun("a lake", "lake", False)], phrases.DUG),
    "pond dried": pond_dried_clause,
    "houses replaced": houses_replaced_clause,
    "swimming pool": swimming_pool_clause,
    "playground": _single([Noun("a playground", "playground", False)], phrases.BUILT),
    "trees planted": trees_planted_clause,
}
"""The template for each kind of event."""


SENTENCES = len(NO_CHANGE)
_POSITION_CHANCE = 0.55
_POSITION_CHANCE_OF_TWO = 0.45


@dataclass(frozen=True)
class Caption:
    """A sentence without capital or full stop.

    Attributes:
        text: The sentence.
        triples: The triples that it states, in its order; empty for a no-change sentence.
        events: Indices of the events that it describes.
    """

    text: str
    triples: tuple[Triple, ...]
    events: tuple[int, ...]


def compose(generator: np.random.Generator, events: Sequence[Event]) -> tuple[Caption, ...]:
    """Compose five different sentences about the events of one pair; the no-change sentences if there is none."""
    if not events:
        return tuple(Caption(text, (), ()) for text in NO_CHANGE)
    captions: list[Caption] = []
    # With two events, the first two sentences describe both, so that every pair has complete ones.
    while len(captions) < SENTENCES:
        caption = _sentence(generator, events, complete=len(captions) < 2)
        if all(caption.text != other.text for other in captions):
            captions.append(caption)
    order = generator.permutation(SENTENCES)
    return tuple(captions[index] for index in order)


def _sentence(generator: np.random.Generator, events: Sequence[Event], *, complete: bool) -> Caption:
    if len(events) == 1:
        single = _event_clause(generator, events[0], _POSITION_CHANCE)
        return Caption(single.text, single.triples, (0,))
    if not complete and generator.random() < 0.6:
        index = int(generator.integers(len(events)))
        single = _event_clause(generator, events[index], _POSITION_CHANCE)
        return Caption(single.text, single.triples, (index,))
    clauses = [_event_clause(generator, event, _POSITION_CHANCE_OF_TWO) for event in events]
    link = " while " if generator.random() < 0.15 else " and "
    text = link.join(part.text for part in clauses)
    triples = tuple(triple for part in clauses for triple in part.triples)
    return Caption(text, triples, tuple(range(len(events))))


def _event_clause(generator: np.random.Generator, event: Event, chance: float) -> Clause:
    return CLAUSE_TEMPLATES[event.kind](generator, event, chance)
