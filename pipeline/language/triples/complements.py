"""What a clause is about and what follows its verb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pipeline.language.triples.elements import Element, Mark, Mention, Preposition, Verb
from pipeline.language.triples.lemmas import word_set
from pipeline.language.triples.relations import BECOME_VERBS, REPLACE

Place = tuple[Preposition, Mention | None]
"""A preposition and what it governs; None where it stands alone: "built along"."""

MADE_INTO: Final = BECOME_VERBS | word_set(
    "develop build rebuild make reconstruct renovate form reshape grow change clear level flatten"
)
"""Verbs that, with "into", say what becomes of their subject."""
_GIVING: Final = word_set("make give leave provide")
_ROOM: Final = word_set("room way space place")


@dataclass
class Item:
    """A thing that a clause is about, with the places that belong to it.

    Attributes:
        mention: The noun phrase.
        places: Prepositional phrases that describe it.
        linked: A statement connects it with the thing it is said with.
    """

    mention: Mention
    places: list[Place] = field(default_factory=list)
    linked: bool = False


@dataclass
class Complements:
    """What follows a verb.

    Attributes:
        objects: Noun phrases without a preposition.
        agents: Those after "by" and, with verbs of covering and replacing, after "with".
        places: Other prepositional phrases.
        results: What the subject becomes ("turned into a lake").
        sources: What it was before ("changed from grass to a lake").
        replaced: What gives way ("in place of trees", "to replace trees").
        adjective: A predicate: "green", "gone".
    """

    objects: list[Mention] = field(default_factory=list)
    agents: list[Mention] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    results: list[Mention] = field(default_factory=list)
    sources: list[Mention] = field(default_factory=list)
    replaced: list[Mention] = field(default_factory=list)
    adjective: str | None = None

    def put(self, verb: Verb, preposition: Preposition, things: Sequence[Mention]) -> None:
        """Put what a preposition governs where it belongs after `verb`."""
        name = preposition.name
        things_on_the_ground = any(not thing.picture and not thing.part for thing in things)
        made = name in ("into", "to") and verb.lemma in MADE_INTO and things_on_the_ground
        meant = name in ("for", "to") and (self._gives_way(verb) or (verb.lemma == "develop" and not self.results))
        if name == "by" and verb.passive and things:
            self.agents.extend(things)
        elif name == REPLACE:
            self.replaced.extend(things)
        elif made or meant:
            self.results.extend(thing for thing in things if not thing.picture)
        elif name == "from" and verb.lemma in MADE_INTO and things_on_the_ground:
            self.sources.extend(thing for thing in things if not thing.picture)
        elif name == "of" and verb.lemma in ("compose", "consist", "make"):
            self.objects.extend(things)
        elif things:
            self.places.extend((preposition, thing) for thing in things)
        else:
            self.places.append((preposition, None))

    def _gives_way(self, verb: Verb) -> bool:
        """Tell whether a verb and its object say "make room", "give way"."""
        return verb.lemma in _GIVING and any(thing.entity in _ROOM for thing in self.objects)


def named_before(mention: Mention, list_so_far: Sequence[Mention]) -> Mention:
    """Give "ones" the noun of the thing before it in a list: "two huge buildings and some small ones"."""
    if mention.refers and mention.text not in ("it", "they", "them") and list_so_far and list_so_far[-1].entity:
        return replace(mention, entity=list_so_far[-1].entity, refers=False)
    return mention


def mention_at(elements: Sequence[Element], i: int) -> Mention | None:
    """Return the mention at a position, None if something else or nothing stands there."""
    element = elements[i] if i < len(elements) else None
    return element if isinstance(element, Mention) else None


def mentions_at(elements: Sequence[Element], i: int, *, greedy: bool) -> tuple[list[Mention], int]:
    """Read a list of things: "a playground, a parking lot and a lake"."""
    things: list[Mention] = []
    while i < len(elements):
        element = elements[i]
        if isinstance(element, Mention) and (not things or greedy):
            things.append(named_before(element, things))
            i += 1
        elif things and greedy and isinstance(element, Mark) and element.kind in ("AND", "COMMA"):
            if mention_at(elements, i + 1) is None:
                break
            i += 1
        else:
            break
    return things, i
