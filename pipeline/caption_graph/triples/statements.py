"""What a clause states: verb, subjects and complements become triples.

What a clause is about and what follows its verb.

What a caption has spoken of so far, and what "it", "them", "the existing ones" stand for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pipeline.caption_graph.triples.chunking import Element, Mark, Mention, Preposition, Verb
from pipeline.caption_graph.triples.lexicon import ENCLOSING, PEOPLE, SEEING
from pipeline.caption_graph.triples.normalisation import (
    APPEAR_VERBS,
    BECOME_VERBS,
    DISAPPEAR_VERBS,
    REPLACE,
    REPLACE_VERBS,
    SCENE,
    SPATIAL_VERBS,
    join_relation,
    settle,
    word_set,
)
from pipeline.caption_graph.triples.records import Family

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


@dataclass
class Memory:
    """Things that were mentioned, the latest last.

    Attributes:
        subjects: The things that each clause is about; for a replacement, what is new.
        things: Every thing.
        current: What the clause being read is about.
    """

    subjects: list[list[Mention]] = field(default_factory=list)
    things: list[Mention] = field(default_factory=list)
    current: list[Mention] = field(default_factory=list)

    def note(self, mention: Mention) -> None:
        """Remember a thing."""
        if mention.entity not in (None, SCENE) and not mention.none:
            self.things.append(mention)

    def close_clause(self, subjects: Sequence[Mention]) -> None:
        """Remember what a clause was about."""
        named = [mention for mention in subjects if mention.entity not in (None, SCENE)]
        if named:
            self.subjects.append(named)
        self.current = []

    def resolve(self, mention: Mention, anchor: Sequence[Mention] = (), *, subject: bool = False) -> list[Mention]:
        """Return what a referring mention stands for; nothing if nothing fits.

        "One" and "ones" take the noun of the clause's subject or the latest one; "it" and "them" prefer what they are
        said with (`anchor`), then what earlier clauses were about, by number, then any thing.
        """
        if not mention.refers:
            return [mention]
        if mention.text not in ("it", "they", "them", "its", "their", "itself", "themselves"):
            groups = [*self.subjects, *([] if subject else [self.current])]
            if not subject and self.current:
                return [self._named(self.current)[0]] if self._named(self.current) else []
            earlier = [thing for thing in self.things if thing.end <= mention.start]
            return groups[-1][:1] if groups and groups[-1] else earlier[-1:]
        things = [thing for thing in self.things if thing.end <= mention.start]
        if anchor:
            return [other for other in anchor if other.entity not in (None, SCENE)]
        for group in reversed(self.subjects):
            if mention.plural and len(group) > 1:
                return group
            fitting = [other for other in group if other.plural == mention.plural]
            if fitting:
                return fitting[-1:]
        fitting = [thing for thing in things if thing.plural == mention.plural and thing not in self.current]
        if fitting:
            return fitting[-1:]
        return self.subjects[-1][-1:] if self.subjects else things[-1:]

    def latest_subject(self) -> list[Mention]:
        """Return what a preposition without an object leans on: "houses are built along"."""
        return self.subjects[-1][-1:] if self.subjects else []

    @staticmethod
    def _named(mentions: Sequence[Mention]) -> list[Mention]:
        return [mention for mention in mentions if mention.entity not in (None, SCENE)]


_STEADY = word_set("remain stay keep seem look continue")
_GONE = word_set("gone missing absent")
_THERE = word_set("new visible present added available")


@dataclass(frozen=True, slots=True)
class Statement:
    """A triple within its caption: head, relation, tail, family, and the characters that state it."""

    head: str
    relation: str
    tail: str
    family: Family
    start: int
    end: int

    @property
    def labels(self) -> tuple[str, str, str, Family]:
        """Head, relation, tail, family."""
        return self.head, self.relation, self.tail, self.family

    @property
    def span(self) -> tuple[int, int]:
        """First character and the one after the last."""
        return self.start, self.end


class Statements:
    """Collects the statements of one caption, each once."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._found: dict[tuple[str, str, str], Statement] = {}

    def all(self) -> list[Statement]:
        """Return the statements in the order in which they were made."""
        return list(self._found.values())

    def add(self, head: Mention, relation: str, tail: Mention | None, *spans: Mention | Verb | Preposition) -> bool:
        """State ⟨head; relation; tail⟩; a tail of None or in the picture is the scene. Tells whether it counts."""
        settled = settle(head.entity, relation, tail.entity if tail else None)
        if settled is None:
            return False
        parts = [head, *([tail] if tail else []), *spans]
        start, end = min(part.start for part in parts), max(part.end for part in parts)
        name, relation, target, family = settled
        self._found.setdefault((name, relation, target), Statement(name, relation, target, family, start, end))
        return True

    def targets(self, places: Iterable[Place], anchor: Sequence[Mention]) -> list[tuple[Preposition, str, Mention]]:
        """Resolve places: preposition, its name towards the thing ("along" for both sides), and the thing."""
        found: list[tuple[Preposition, str, Mention]] = []
        for preposition, mention in places:
            if preposition.name in _NOT_PLACES:
                continue
            if mention is None:
                leaning = anchor or (self._memory.latest_subject() if preposition.name in _LEANING else [])
                found.extend((preposition, preposition.name, thing) for thing in leaning)
            elif mention.part == "side" and mention.entity is None and not mention.refers:
                if mention.sides:
                    leaning = anchor or self._memory.latest_subject()
                    found.extend((preposition, "along", thing) for thing in leaning)
            else:
                name = preposition.name
                if mention.part in ("side", "left", "right") and name in (
                    "on",
                    "at",
                    "along",
                    "by",
                    "to",
                    "in",
                    "from",
                    "around",
                ):
                    name = "along" if mention.sides else "beside"
                found.extend(
                    (preposition, name, thing)
                    for thing in self._memory.resolve(mention, anchor)
                    if thing.entity not in (None, SCENE)
                )
        return found

    def place(self, items: Sequence[Item], places: Sequence[Place], anchor: Sequence[Mention] = ()) -> None:
        """State bare spatial relations: ⟨house; along; road⟩."""
        for preposition, name, thing in self.targets(places, anchor):
            for item in items:
                for head in self._memory.resolve(item.mention):
                    if self.add(head, name, thing, preposition) and _among(thing, anchor):
                        item.linked = True

    def event(
        self,
        verb: Verb,
        items: Sequence[Item],
        found: Complements,
        *,
        anchor: Sequence[Mention] = (),
        existential: bool = False,
    ) -> list[Mention]:
        """State what a verb says of `items`.

        Returns:
            What the clause is about in the end: the newcomers of a replacement, else the subjects.
        """
        lemma = verb.lemma
        subjects = [thing for item in items for thing in self._memory.resolve(item.mention, subject=True)]
        if lemma in _STEADY or (verb.negative and lemma not in ("exist", "be", "see", "appear", "have")):
            return subjects
        if lemma in REPLACE_VERBS or (lemma == "take" and found.replaced):
            return self._replacement(verb, items, subjects, found, anchor)
        if found.results or (lemma in BECOME_VERBS and [thing for thing in found.objects if thing.entity]):
            results = found.results or found.objects
            return self._exchange(verb, results, found.sources or subjects, items, found, anchor)
        if found.replaced:
            self._exchange(verb, subjects, found.replaced, (), Complements(), anchor)
        if verb.passive and lemma in ENCLOSING and found.agents:
            agents = self._resolve_all(found.agents, anchor)
            for head in agents:
                for thing in subjects:
                    if self.add(head, lemma, thing, verb):
                        self._link(items, head, thing, anchor)
            return subjects
        return self._plain(verb, items, subjects, found, anchor, existential)

    def _plain(
        self,
        verb: Verb,
        items: Sequence[Item],
        subjects: list[Mention],
        found: Complements,
        anchor: Sequence[Mention],
        existential: bool,
    ) -> list[Mention]:
        name = self._verb_name(verb, items, found, existential)
        objects = self._resolve_all(found.objects, anchor)
        if name in APPEAR_VERBS | DISAPPEAR_VERBS and objects and not verb.passive:
            items, subjects, objects = [Item(thing) for thing in objects], objects, []
        agents = [thing for thing in found.agents if thing.entity not in PEOPLE and not thing.picture]
        places = [*found.places, *((_by(verb), agent) for agent in agents)]
        for item in items:
            for head in self._memory.resolve(_or_scene(item.mention), subject=True):
                stated = bool(found.replaced)
                for thing in objects:
                    stated |= self._state(item, head, name or "be", thing, verb, anchor)
                for preposition, way, thing in self.targets(places, anchor):
                    stated |= self._state(item, head, join_relation(name, way), thing, verb, anchor, preposition)
                for preposition, way, thing in self.targets(item.places, ()):
                    stated |= self._state(item, head, join_relation(name, way), thing, verb, (), preposition)
                if not stated and (verb.form == "finite" or name not in SPATIAL_VERBS):
                    self.add(head, name or "be", None, verb)
        return subjects

    def _state(
        self,
        item: Item,
        head: Mention,
        name: str,
        thing: Mention,
        verb: Verb,
        anchor: Sequence[Mention],
        *spans: Preposition,
    ) -> bool:
        stated = self.add(head, name, thing, verb, *spans)
        item.linked |= stated and _among(thing, anchor)
        return stated

    def _verb_name(self, verb: Verb, items: Sequence[Item], found: Complements, existential: bool) -> str | None:
        lemma = verb.lemma
        if any(item.mention.none for item in items) or (verb.negative and lemma in ("exist", "be", "see", "appear")):
            return "disappear"
        if existential or (lemma in SEEING and verb.passive):
            return "appear"
        if lemma == "be":
            if found.adjective in _GONE:
                return "disappear"
            if found.adjective == "under-construction":
                return "construct"
            if found.adjective in _THERE:
                return "appear"
            return None if found.adjective is None else "become"
        if lemma == "appear" and found.adjective and found.adjective.endswith("er"):
            return "become"
        return lemma

    def _replacement(
        self,
        verb: Verb,
        items: Sequence[Item],
        subjects: list[Mention],
        found: Complements,
        anchor: Sequence[Mention],
    ) -> list[Mention]:
        if verb.passive:
            old, new = subjects, found.agents
        else:
            old, new = found.objects or found.replaced, subjects
        return self._exchange(verb, new, old, items, found, anchor)

    def _exchange(
        self,
        verb: Verb,
        new: Sequence[Mention],
        old: Sequence[Mention],
        items: Sequence[Item],
        found: Complements,
        anchor: Sequence[Mention],
    ) -> list[Mention]:
        newcomers = self._resolve_all(new, ())
        gone = self._resolve_all(old, anchor)
        for head in newcomers:
            for thing in gone:
                self.add(head, REPLACE, thing, verb)
        places = [*(place for item in items for place in item.places), *found.places]
        for preposition, way, thing in self.targets(places, anchor):
            for head in newcomers:
                self.add(head, way, thing, preposition)
        if not newcomers:
            for thing in gone:
                self.add(_scene(verb), REPLACE, thing, verb)
        if not gone:
            for head in newcomers:
                self.add(head, REPLACE, None, verb)
        return newcomers or gone

    def _resolve_all(self, mentions: Sequence[Mention], anchor: Sequence[Mention]) -> list[Mention]:
        return [thing for mention in mentions for thing in self._memory.resolve(mention, anchor)]

    @staticmethod
    def _link(items: Sequence[Item], head: Mention, thing: Mention, anchor: Sequence[Mention]) -> None:
        for item in items:
            if (item.mention is head or item.mention is thing) and (head in anchor or thing in anchor):
                item.linked = True


_NOT_PLACES = word_set("of as without despite except per for")
_LEANING = word_set("along around beside")


def _by(verb: Verb) -> Preposition:
    return Preposition("by", verb.start, verb.end)


def _among(thing: Mention, anchor: Sequence[Mention]) -> bool:
    """Tell whether a thing is one of `anchor`, or named again: "a road with houses on both sides of the road"."""
    return thing in anchor or (thing.definite and any(thing.entity == other.entity for other in anchor))


def _or_scene(mention: Mention) -> Mention:
    """Read a place in the picture that an event is about as the scene: "a small part was urbanised"."""
    return replace(mention, entity=SCENE) if mention.entity is None and not mention.refers else mention


def _scene(verb: Verb) -> Mention:
    return Mention(SCENE, SCENE, False, False, False, True, False, False, None, False, verb.start, verb.end)
