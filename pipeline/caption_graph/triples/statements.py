"""Statements of a caption: the complements of a verb, the referents of pronouns, and the triples they make.

`rules.ClauseReader` reads clauses into `Participant`s and `Complements`; `DiscourseContext` resolves pronouns, and
`Statements` turns a verb with its participants and complements into triples.
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
    finish_triple,
    join_relation,
    word_set,
)
from pipeline.caption_graph.triples.records import Family

PrepositionalPhrase = tuple[Preposition, Mention | None]
"""A preposition and its object; None where it has none: "built along"."""

MADE_INTO: Final = BECOME_VERBS | word_set(
    "develop build rebuild make reconstruct renovate form reshape grow change clear level flatten"
)
"""Verbs whose "into" phrase is what the subject becomes."""
_GIVING: Final = word_set("make give leave provide")
_ROOM: Final = word_set("room way space place")


@dataclass
class Participant:
    """Noun phrase that a clause makes a statement about, with its prepositional phrases.

    Attributes:
        mention: The noun phrase.
        phrases: Prepositional phrases that describe it.
        linked: A statement links it to its host, such as "a road" in "a road with houses".
    """

    mention: Mention
    phrases: list[PrepositionalPhrase] = field(default_factory=list)
    linked: bool = False


@dataclass
class Complements:
    """Complements of a verb.

    Attributes:
        objects: Noun phrases without a preposition.
        agents: Those after "by" and, with verbs of covering and replacing, after "with".
        phrases: Other prepositional phrases.
        results: What the subject becomes ("turned into a lake").
        sources: What the subject was before ("changed from grass to a lake").
        replaced: What is replaced ("in place of trees", "to replace trees").
        adjective: A predicate: "green", "gone".
    """

    objects: list[Mention] = field(default_factory=list)
    agents: list[Mention] = field(default_factory=list)
    phrases: list[PrepositionalPhrase] = field(default_factory=list)
    results: list[Mention] = field(default_factory=list)
    sources: list[Mention] = field(default_factory=list)
    replaced: list[Mention] = field(default_factory=list)
    adjective: str | None = None

    def add(self, verb: Verb, preposition: Preposition, things: Sequence[Mention]) -> None:
        """Add the objects of a preposition to the complements that they are after `verb`."""
        name = preposition.name
        things_on_the_ground = any(not thing.picture and not thing.part for thing in things)
        becomes = name in ("into", "to") and verb.lemma in MADE_INTO and things_on_the_ground
        intended = name in ("for", "to") and (self._gives_way(verb) or (verb.lemma == "develop" and not self.results))
        if name == "by" and verb.passive and things:
            self.agents.extend(things)
        elif name == REPLACE:
            self.replaced.extend(things)
        elif becomes or intended:
            self.results.extend(thing for thing in things if not thing.picture)
        elif name == "from" and verb.lemma in MADE_INTO and things_on_the_ground:
            self.sources.extend(thing for thing in things if not thing.picture)
        elif name == "of" and verb.lemma in ("compose", "consist", "make"):
            self.objects.extend(things)
        elif things:
            self.phrases.extend((preposition, thing) for thing in things)
        else:
            self.phrases.append((preposition, None))

    def _gives_way(self, verb: Verb) -> bool:
        """Tell whether a verb and its object mean "make room", "give way"."""
        return verb.lemma in _GIVING and any(thing.entity in _ROOM for thing in self.objects)


def named_before(mention: Mention, list_so_far: Sequence[Mention]) -> Mention:
    """Resolve "ones" to the noun before it in a list: "two huge buildings and some small ones"."""
    if mention.refers and mention.text not in ("it", "they", "them") and list_so_far and list_so_far[-1].entity:
        return replace(mention, entity=list_so_far[-1].entity, refers=False)
    return mention


def mention_at(elements: Sequence[Element], i: int) -> Mention | None:
    """Return the mention at a position, None for another element or the end."""
    element = elements[i] if i < len(elements) else None
    return element if isinstance(element, Mention) else None


def mentions_at(elements: Sequence[Element], i: int, *, greedy: bool) -> tuple[list[Mention], int]:
    """Read a list of mentions, "a playground, a parking lot and a lake"; return it with the position after it."""
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
class DiscourseContext:
    """Mentions that later pronouns can refer to, the latest last.

    Attributes:
        subjects: Subjects of each clause; for a replacement, what is new.
        things: All mentions of entities.
        current: Subjects of the clause being read.
    """

    subjects: list[list[Mention]] = field(default_factory=list)
    things: list[Mention] = field(default_factory=list)
    current: list[Mention] = field(default_factory=list)

    def note(self, mention: Mention) -> None:
        """Add a mention."""
        if mention.entity not in (None, SCENE) and not mention.none:
            self.things.append(mention)

    def close_clause(self, subjects: Sequence[Mention]) -> None:
        """Add the subjects of a clause at its end."""
        entities = [mention for mention in subjects if mention.entity not in (None, SCENE)]
        if entities:
            self.subjects.append(entities)
        self.current = []

    def resolve(self, mention: Mention, anchor: Sequence[Mention] = (), *, subject: bool = False) -> list[Mention]:
        """Return the referents of a mention, none if nothing fits.

        "One" and "ones" refer to the clause's subject or the latest mention; "it" and "them" refer to their host
        (`anchor`), else to subjects of earlier clauses that agree in number, else to any mention that does.
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
        """Return the implied object of a preposition without one: "houses are built along"."""
        return self.subjects[-1][-1:] if self.subjects else []

    @staticmethod
    def _named(mentions: Sequence[Mention]) -> list[Mention]:
        return [mention for mention in mentions if mention.entity not in (None, SCENE)]


_STEADY = word_set("remain stay keep seem look continue")
_GONE = word_set("gone missing absent")
_THERE = word_set("new visible present added available")


@dataclass(frozen=True, slots=True)
class Statement:
    """Triple of a caption: head, relation, tail, family, and the characters that state it."""

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
    """Collector of the statements of one caption, each once."""

    def __init__(self, context: DiscourseContext) -> None:
        self._context = context
        self._statements: dict[tuple[str, str, str], Statement] = {}

    def all(self) -> list[Statement]:
        """Return the statements in the order in which they were made."""
        return list(self._statements.values())

    def add(self, head: Mention, relation: str, tail: Mention | None, *spans: Mention | Verb | Preposition) -> bool:
        """State ⟨head; relation; tail⟩, without a tail entity that of the scene; tell whether it is a triple."""
        triple = finish_triple(head.entity, relation, tail.entity if tail else None)
        if triple is None:
            return False
        elements = [head, *([tail] if tail else []), *spans]
        start, end = min(element.start for element in elements), max(element.end for element in elements)
        name, relation, target, family = triple
        self._statements.setdefault((name, relation, target), Statement(name, relation, target, family, start, end))
        return True

    def resolve_phrases(
        self, phrases: Iterable[PrepositionalPhrase], anchor: Sequence[Mention]
    ) -> list[tuple[Preposition, str, Mention]]:
        """Resolve phrases to the preposition, the relation it means ("along" for both sides), and the referent."""
        resolved: list[tuple[Preposition, str, Mention]] = []
        for preposition, mention in phrases:
            if preposition.name in _NOT_SPATIAL:
                continue
            if mention is None:
                antecedents = anchor or (self._context.latest_subject() if preposition.name in _BARE_SPATIAL else [])
                resolved.extend((preposition, preposition.name, thing) for thing in antecedents)
            elif mention.part == "side" and mention.entity is None and not mention.refers:
                if mention.sides:
                    antecedents = anchor or self._context.latest_subject()
                    resolved.extend((preposition, "along", thing) for thing in antecedents)
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
                resolved.extend(
                    (preposition, name, thing)
                    for thing in self._context.resolve(mention, anchor)
                    if thing.entity not in (None, SCENE)
                )
        return resolved

    def state_phrases(
        self,
        participants: Sequence[Participant],
        phrases: Sequence[PrepositionalPhrase],
        anchor: Sequence[Mention] = (),
    ) -> None:
        """State bare spatial relations: ⟨house; along; road⟩."""
        for preposition, name, thing in self.resolve_phrases(phrases, anchor):
            for participant in participants:
                for head in self._context.resolve(participant.mention):
                    if self.add(head, name, thing, preposition) and _among(thing, anchor):
                        participant.linked = True

    def event(
        self,
        verb: Verb,
        participants: Sequence[Participant],
        complements: Complements,
        *,
        anchor: Sequence[Mention] = (),
        existential: bool = False,
    ) -> list[Mention]:
        """State the triples of a verb with its subjects and complements.

        Returns:
            Subjects for later pronouns: what is new in a replacement, else the subjects of the verb.
        """
        lemma = verb.lemma
        subjects = [
            thing for participant in participants for thing in self._context.resolve(participant.mention, subject=True)
        ]
        if lemma in _STEADY or (verb.negative and lemma not in ("exist", "be", "see", "appear", "have")):
            return subjects
        if lemma in REPLACE_VERBS or (lemma == "take" and complements.replaced):
            return self._replacement(verb, participants, subjects, complements, anchor)
        if complements.results or (lemma in BECOME_VERBS and [thing for thing in complements.objects if thing.entity]):
            results = complements.results or complements.objects
            return self._exchange(verb, results, complements.sources or subjects, participants, complements, anchor)
        if complements.replaced:
            self._exchange(verb, subjects, complements.replaced, (), Complements(), anchor)
        if verb.passive and lemma in ENCLOSING and complements.agents:
            agents = self._resolve_all(complements.agents, anchor)
            for head in agents:
                for thing in subjects:
                    if self.add(head, lemma, thing, verb):
                        self._link(participants, head, thing, anchor)
            return subjects
        return self._plain(verb, participants, subjects, complements, anchor, existential)

    def _plain(
        self,
        verb: Verb,
        participants: Sequence[Participant],
        subjects: list[Mention],
        complements: Complements,
        anchor: Sequence[Mention],
        existential: bool,
    ) -> list[Mention]:
        name = self._verb_name(verb, participants, complements, existential)
        objects = self._resolve_all(complements.objects, anchor)
        if name in APPEAR_VERBS | DISAPPEAR_VERBS and objects and not verb.passive:
            participants, subjects, objects = [Participant(thing) for thing in objects], objects, []
        agents = [thing for thing in complements.agents if thing.entity not in PEOPLE and not thing.picture]
        phrases = [*complements.phrases, *((_by(verb), agent) for agent in agents)]
        for participant in participants:
            for head in self._context.resolve(_or_scene(participant.mention), subject=True):
                stated = bool(complements.replaced)
                for thing in objects:
                    stated |= self._state(participant, head, name or "be", thing, verb, anchor)
                for preposition, way, thing in self.resolve_phrases(phrases, anchor):
                    stated |= self._state(participant, head, join_relation(name, way), thing, verb, anchor, preposition)
                for preposition, way, thing in self.resolve_phrases(participant.phrases, ()):
                    stated |= self._state(participant, head, join_relation(name, way), thing, verb, (), preposition)
                if not stated and (verb.form == "finite" or name not in SPATIAL_VERBS):
                    self.add(head, name or "be", None, verb)
        return subjects

    def _state(
        self,
        participant: Participant,
        head: Mention,
        name: str,
        thing: Mention,
        verb: Verb,
        anchor: Sequence[Mention],
        *spans: Preposition,
    ) -> bool:
        stated = self.add(head, name, thing, verb, *spans)
        participant.linked |= stated and _among(thing, anchor)
        return stated

    def _verb_name(
        self, verb: Verb, participants: Sequence[Participant], complements: Complements, existential: bool
    ) -> str | None:
        lemma = verb.lemma
        if any(participant.mention.none for participant in participants) or (
            verb.negative and lemma in ("exist", "be", "see", "appear")
        ):
            return "disappear"
        if existential or (lemma in SEEING and verb.passive):
            return "appear"
        if lemma == "be":
            if complements.adjective in _GONE:
                return "disappear"
            if complements.adjective == "under-construction":
                return "construct"
            if complements.adjective in _THERE:
                return "appear"
            return None if complements.adjective is None else "become"
        if lemma == "appear" and complements.adjective and complements.adjective.endswith("er"):
            return "become"
        return lemma

    def _replacement(
        self,
        verb: Verb,
        participants: Sequence[Participant],
        subjects: list[Mention],
        complements: Complements,
        anchor: Sequence[Mention],
    ) -> list[Mention]:
        if verb.passive:
            old, new = subjects, complements.agents
        else:
            old, new = complements.objects or complements.replaced, subjects
        return self._exchange(verb, new, old, participants, complements, anchor)

    def _exchange(
        self,
        verb: Verb,
        new: Sequence[Mention],
        old: Sequence[Mention],
        participants: Sequence[Participant],
        complements: Complements,
        anchor: Sequence[Mention],
    ) -> list[Mention]:
        new_things = self._resolve_all(new, ())
        old_things = self._resolve_all(old, anchor)
        for head in new_things:
            for thing in old_things:
                self.add(head, REPLACE, thing, verb)
        phrases = [*(phrase for participant in participants for phrase in participant.phrases), *complements.phrases]
        for preposition, way, thing in self.resolve_phrases(phrases, anchor):
            for head in new_things:
                self.add(head, way, thing, preposition)
        if not new_things:
            for thing in old_things:
                self.add(_scene(verb), REPLACE, thing, verb)
        if not old_things:
            for head in new_things:
                self.add(head, REPLACE, None, verb)
        return new_things or old_things

    def _resolve_all(self, mentions: Sequence[Mention], anchor: Sequence[Mention]) -> list[Mention]:
        return [thing for mention in mentions for thing in self._context.resolve(mention, anchor)]

    @staticmethod
    def _link(participants: Sequence[Participant], head: Mention, thing: Mention, anchor: Sequence[Mention]) -> None:
        for participant in participants:
            if (participant.mention is head or participant.mention is thing) and (head in anchor or thing in anchor):
                participant.linked = True


_NOT_SPATIAL = word_set("of as without despite except per for")
_BARE_SPATIAL = word_set("along around beside")


def _by(verb: Verb) -> Preposition:
    return Preposition("by", verb.start, verb.end)


def _among(thing: Mention, anchor: Sequence[Mention]) -> bool:
    """Tell whether a mention is one of `anchor` or names it again: "a road with houses on both sides of the road"."""
    return thing in anchor or (thing.definite and any(thing.entity == other.entity for other in anchor))


def _or_scene(mention: Mention) -> Mention:
    """Return the scene for a part of the picture that is the subject of an event: "a small part was urbanised"."""
    return replace(mention, entity=SCENE) if mention.entity is None and not mention.refers else mention


def _scene(verb: Verb) -> Mention:
    return Mention(SCENE, SCENE, False, False, False, True, False, False, None, False, verb.start, verb.end)
