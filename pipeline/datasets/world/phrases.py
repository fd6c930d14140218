"""Parts of sentences: noun phrases with counts, verbs, complements, and the triples that they state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from pipeline.datasets.world.facts import Event, Position

Family = Literal["appear", "disappear", "replace", "spatial", "other"]
T = TypeVar("T")

SCENE = "scene"
"""Tail of the triple of an event without a second entity."""


@dataclass(frozen=True)
class Triple:
    """⟨head; relation; tail⟩ with the relation's family."""

    head: str
    relation: str
    tail: str
    family: Family


@dataclass(frozen=True)
class Noun:
    """A noun phrase in a sentence.

    Attributes:
        text: Its words in the sentence.
        entity: Its head in the singular; a compound that names a class is kept whole.
        plural: Whether it takes a plural verb.
    """

    text: str
    entity: str
    plural: bool


@dataclass(frozen=True)
class Verb:
    """A predicate in singular and plural, its lemma and its family."""

    singular: str
    plural: str
    lemma: str
    family: Family

    def form(self, plural: bool) -> str:
        """Return the form that agrees with the subject."""
        return self.plural if plural else self.singular


@dataclass(frozen=True)
class Complement:
    """A prepositional phrase with an entity ("along the road"), or a position in the picture without one."""

    text: str
    preposition: str = ""
    entity: str = ""


@dataclass(frozen=True)
class Clause:
    """A clause and the triples that it states."""

    text: str
    triples: tuple[Triple, ...]


def pick(generator: np.random.Generator, choices: Sequence[T], weights: Sequence[float] | None = None) -> T:
    """Return one of `choices`, by weight."""
    if weights is None:
        return choices[int(generator.integers(len(choices)))]
    shares = np.asarray(weights, dtype=np.float64)
    return choices[int(generator.choice(len(choices), p=shares / shares.sum()))]


def _passive(participle: str, lemma: str, family: Family) -> list[Verb]:
    """Return the passive, three times in four in the present tense."""
    present = Verb(f"is {participle}", f"are {participle}", lemma, family)
    return [present, present, present, Verb(f"has been {participle}", f"have been {participle}", lemma, family)]


_APPEAR = [
    *[Verb("appears", "appear", "appear", "appear")] * 3,
    Verb("has appeared", "have appeared", "appear", "appear"),
    Verb("shows up", "show up", "show-up", "appear"),
]
_DISAPPEAR = [
    *[Verb("disappears", "disappear", "disappear", "disappear")] * 3,
    Verb("has disappeared", "have disappeared", "disappear", "disappear"),
]
_REMOVE = _passive("removed", "remove", "disappear")

CAME = _APPEAR
GONE = [*_REMOVE, *_DISAPPEAR]
BUILT = [*_passive("built", "build", "appear"), *_passive("constructed", "construct", "appear"), *_APPEAR]
ERECTED = [*BUILT, Verb("is erected", "are erected", "erect", "appear")]
DUG = [*_APPEAR, Verb("is dug", "are dug", "dig", "appear")]
PLANTED = [*_passive("planted", "plant", "appear"), *_APPEAR[:3]]
DEMOLISHED = [
    *_passive("demolished", "demolish", "disappear"),
    *GONE,
    Verb("is torn down", "are torn down", "tear-down", "disappear"),
]
FELLED = [
    *_REMOVE,
    *_REMOVE,
    *_DISAPPEAR,
    *[Verb("is cut down", "are cut down", "cut-down", "disappear")] * 2,
    *[Verb("is cleared", "are cleared", "clear", "disappear")] * 2,
]
DRIED = [
    *_DISAPPEAR,
    Verb("dries up", "dry up", "dry-up", "disappear"),
    Verb("has dried up", "have dried up", "dry-up", "disappear"),
    *_passive("filled", "fill", "disappear")[:2],
]
EXTENDED = [
    *_passive("extended", "extend", "other"),
    Verb("becomes longer", "become longer", "become-longer", "other"),
    Verb("is lengthened", "are lengthened", "lengthen", "other"),
]
WIDENED = [
    *_passive("widened", "widen", "other"),
    Verb("becomes wider", "become wider", "become-wider", "other"),
    Verb("is expanded", "are expanded", "expand", "other"),
]

GROUND_NOUNS: dict[str, list[Noun]] = {
    "bareland": [Noun("the bareland", "bareland", False)] * 4
    + [Noun("the open space", "open space", False), Noun("the open ground", "open ground", False)],
    "grassland": [Noun("the grassland", "grassland", False)] * 3
    + [Noun("the grass", "grass", False), Noun("the meadow", "meadow", False)],
    "tree": [Noun("the woods", "woods", True), Noun("the forest", "forest", False), Noun("the trees", "tree", True)],
}


def ground_complement(generator: np.random.Generator, ground: str) -> Complement:
    """Return "on the bareland", "in the woods" and the like."""
    noun = pick(generator, GROUND_NOUNS[ground])
    preposition = "in" if ground == "tree" else "on"
    return Complement(f"{preposition} {noun.text}", preposition, noun.entity)


def position_complement(generator: np.random.Generator, position: Position) -> Complement | None:
    """Return a position in the picture, or None where it is undecided."""
    column = {"low": "left", "high": "right", "middle": "", "spans": ""}.get(position.column)
    row = {"low": "top", "high": "bottom", "middle": "", "spans": ""}.get(position.row)
    if column and row:
        upper = {"top": "upper", "bottom": "lower"}[row]
        options = [
            f"in the {row} {column} corner",
            f"at the {row} {column} corner",
            f"in the {upper} {column} corner",
            f"on the {row} {column}",
        ]
        return Complement(pick(generator, options, [3, 2, 1.5, 1.5]))
    if row:
        return Complement(pick(generator, [f"at the {row}", f"at the {row} of the scene"], [4, 1]))
    if column:
        return Complement(pick(generator, [f"on the {column} side", f"on the {column}"], [2, 1]))
    if (column, row) == ("", "") and (position.column, position.row) != ("spans", "spans"):
        return Complement(pick(generator, ["in the center", "in the middle"], [2, 1]))
    return None


_HOUSE_NOUNS = [("house", "houses"), ("building", "buildings"), ("villa", "villas")]


def houses(generator: np.random.Generator, event: Event, *, new: bool = True) -> Noun:
    """Return the counted houses of an event: "a villa", "three new houses", "a row of buildings", "many houses"."""
    singular, plural = pick(generator, _HOUSE_NOUNS, [5, 3, 2])
    return counted(generator, event.count, event.rows, singular, plural, new=new)


def counted(
    generator: np.random.Generator, count: int, rows: int, singular: str, plural: str, *, new: bool = False
) -> Noun:
    """Return a noun phrase for `count` things that stand in `rows` rows.

    One, two, three and four are exact; some, several and a few mean three to six; many means seven or more.
    """
    fresh = "new " if new and generator.random() < 0.15 else ""
    if rows == 1 and count >= 4 and generator.random() < 0.55:
        return Noun(f"a row of {fresh}{plural}", singular, False)
    if rows >= 2 and generator.random() < 0.4:
        number = {2: ["two"], 3: ["three", "several"]}.get(rows, ["several"])
        return Noun(f"{pick(generator, number)} rows of {fresh}{plural}", singular, True)
    if count == 1:
        return Noun(f"{pick(generator, ['a', 'one'], [8, 1])} {fresh}{singular}", singular, False)
    words = {
        2: (["two"], [1]),
        3: (["three", "several", "some", "a few"], [4, 2, 3, 1]),
        4: (["four", "several", "some", "a few"], [3, 3, 3, 1]),
    }.get(count, (["several", "some"], [1, 1]) if count <= 6 else (["many", "a lot of", "lots of"], [5, 1, 1]))
    return Noun(f"{pick(generator, *words)} {fresh}{plural}", singular, True)


def clause(subject: Noun, verb: Verb, complements: Sequence[Complement] = ()) -> Clause:
    """Join subject, verb and complements; each complement with an entity gives a triple."""
    text = " ".join([subject.text, verb.form(subject.plural), *(c.text for c in complements)])
    return Clause(text, event_triples(subject.entity, verb, complements))


def event_triples(head: str, verb: Verb, complements: Sequence[Complement]) -> tuple[Triple, ...]:
    """Return the triples of one subject with a verb and its complements; without an entity the tail is the scene."""
    with_entity = [c for c in complements if c.entity]
    if not with_entity:
        return (Triple(head, verb.lemma, SCENE, verb.family),)
    return tuple(Triple(head, f"{verb.lemma}-{c.preposition}", c.entity, verb.family) for c in with_entity)


def replacement(generator: np.random.Generator, old: Noun, new: Noun, *, position: Complement | None = None) -> Clause:
    """Return a clause that `new` replaces `old`, in one of four wordings."""
    triple = Triple(new.entity, "replace", old.entity, "replace")
    tail = f" {position.text}" if position else ""
    old_is, old_has = ("are", "have") if old.plural else ("is", "has")
    new_replaces, new_takes = ("replace", "take") if new.plural else ("replaces", "takes")
    options = [
        f"{old.text} {old_is} replaced by {new.text}{tail}",
        f"{old.text} {old_has} been replaced by {new.text}{tail}",
        f"{new.text} {new_replaces} {old.text}{tail}",
        f"{new.text} {new_takes} the place of {old.text}{tail}",
    ]
    return Clause(pick(generator, options, [4, 2, 3, 1]), (triple,))
