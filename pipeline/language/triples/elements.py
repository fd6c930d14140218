"""Elements of a sentence: mentions of things, verb groups, prepositions and marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.language.triples.entities import SCENE


@dataclass(frozen=True, slots=True)
class Mention:
    """A noun phrase.

    Attributes:
        entity: Its entity; None for places in the picture and for words that refer to something else.
        text: Its last word, lower case.
        refers: It stands for a thing named elsewhere: "it", "the existing ones", "some".
        plural: It agrees with a plural verb.
        indefinite: It begins with an article, a number or a quantity that brings something new: "a", "two", "some".
        definite: It begins with "the" or the like.
        new: It is called new or additional.
        none: It begins with "no".
        part: The part of the entity that is meant ("side" of the road), or the place in the picture.
        sides: The part is both sides of it.
        start: First character in the caption.
        end: Character after its last.
    """

    entity: str | None
    text: str
    refers: bool
    plural: bool
    indefinite: bool
    definite: bool
    new: bool
    none: bool
    part: str | None
    sides: bool
    start: int
    end: int

    @property
    def picture(self) -> bool:
        """It is the scene or a place in it, not a thing."""
        return not self.refers and (self.entity is None or self.entity == SCENE)


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb with its auxiliaries.

    Attributes:
        lemma: Its infinitive, with a particle: "cut-down".
        form: finite, participle (relative clauses too), or infinitive.
        passive: What happens to the subject.
        plural: Number of the subject that the form calls for, None where it does not say.
        negative: With "not", "no longer".
        start: First character in the caption.
        end: Character after its last.
    """

    lemma: str
    form: Literal["finite", "participle", "infinitive"]
    passive: bool
    plural: bool | None
    negative: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Preposition:
    """A preposition by its canonical name."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Anything else that shapes a sentence: AND, COMMA, SUB, THERE, ADJ (a predicate)."""

    kind: str
    start: int
    end: int
    text: str = ""


Element = Mention | Verb | Preposition | Mark
