"""What a clause states: verb, subjects and complements become triples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.language.triples.complements import Complements, Item, Place
from pipeline.language.triples.conventions import SCENE, settle
from pipeline.language.triples.elements import Mention, Preposition, Verb
from pipeline.language.triples.lemmas import word_set
from pipeline.language.triples.lexicon import ENCLOSING, PEOPLE, SEEING
from pipeline.language.triples.memory import Memory
from pipeline.language.triples.records import Family
from pipeline.language.triples.relations import (
    APPEAR_VERBS,
    BECOME_VERBS,
    DISAPPEAR_VERBS,
    REPLACE,
    REPLACE_VERBS,
    SPATIAL_VERBS,
    join_relation,
)

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
