"""Extraction by rules: the elements of a sentence are cut into clauses, and clauses are read into statements.

`RulesExtractor`, at the end, is the engine: it tags words, finds elements (`chunking`), cuts clauses (`find_clauses`)
and reads them from left to right (`ClauseReader`), which states triples (`statements`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Final

from pipeline.caption_graph.settings import RulesSettings
from pipeline.caption_graph.triples.chunking import Element, Mark, Mention, Preposition, Verb, find_elements
from pipeline.caption_graph.triples.lexicon import CONNECTING, ENCLOSING
from pipeline.caption_graph.triples.normalisation import REPLACE, REPLACE_VERBS, SCENE
from pipeline.caption_graph.triples.records import Caption, Triple
from pipeline.caption_graph.triples.statements import (
    Complements,
    DiscourseContext,
    Participant,
    Statement,
    Statements,
    mention_at,
    mentions_at,
    named_before,
)
from pipeline.caption_graph.triples.tagging import Tagger, Word, make_tagger
from pipeline.datasets.no_change import implies_change


def find_clauses(elements: Sequence[Element]) -> list[list[Element]]:
    """Cut a sentence into clauses.

    Full stops, semicolons and words such as "while" always separate clauses. Between two finite verbs an "and" may
    separate clauses or join two mentions of one clause; see `_split_between`.
    """
    clauses: list[list[Element]] = []
    segment: list[Element] = []
    for element in [*elements, Mark("SUB", 0, 0)]:
        if isinstance(element, Mark) and element.kind in ("SUB", "REL"):
            clauses.extend(_split(segment))
            segment = []
        else:
            segment.append(element)
    return [clause for clause in clauses if clause]


def _split(segment: list[Element]) -> list[list[Element]]:
    verbs = [i for i, element in enumerate(segment) if isinstance(element, Verb) and element.form == "finite"]
    if len(verbs) < 2:
        tail = _trailing_fragment(segment, verbs[0]) if verbs else None
        return [segment] if tail is None else [segment[:tail], segment[tail + 1 :]]
    clauses: list[list[Element]] = []
    start = 0
    for earlier, later in pairwise(verbs):
        cut = _split_between(segment, earlier, later)
        clauses.append(segment[start:cut])
        start = cut
    last = segment[start:]
    tail = _trailing_fragment(last, verbs[-1] - start)
    clauses.extend([last] if tail is None else [last[:tail], last[tail + 1 :]])
    return [_without_joint(clause) for clause in clauses]


def _trailing_fragment(clause: list[Element], verb: int) -> int | None:
    """Find an "and" before a clause that lacks its auxiliary: "trees are removed and houses built"."""
    for i in range(verb + 1, len(clause) - 2):
        new = clause[i + 1]
        if (
            _is_joint(clause[i])
            and isinstance(new, Mention)
            and not _open_list(clause, i, verb)
            and any(isinstance(element, Verb) and element.form == "participle" for element in clause[i + 2 :])
        ):
            return i
    return None


def _without_joint(clause: list[Element]) -> list[Element]:
    while clause and _is_joint(clause[0]):
        clause = clause[1:]
    return clause


def _is_joint(element: Element) -> bool:
    return isinstance(element, Mark) and element.kind in ("AND", "COMMA")


def _split_between(segment: list[Element], earlier: int, later: int) -> int:
    """Find where the clause of the verb at `later` begins.

    Candidates are the conjunctions and commas before a noun phrase. The first that cannot join two mentions of one list
    (`_open_list`) separates the clauses; otherwise the last after which the subject agrees with the verb in number.
    """
    verb = segment[later]
    assert isinstance(verb, Verb)
    joints = [i for i in range(earlier + 1, later) if _is_joint(segment[i])]
    candidates = [
        i for i in joints if isinstance(segment[i + 1], Mention | Preposition | Mark) and not _is_joint(segment[i + 1])
    ]
    candidates = [i for i in candidates if any(isinstance(element, Mention) for element in segment[i:later])]
    if not candidates:
        if joints:
            return joints[-1]
        return next(
            (i for i in range(earlier + 1, later) if isinstance(segment[i], Mention) and _new_subject(segment, i)),
            later,
        )
    for i in candidates:
        if not _open_list(segment, i, earlier):
            return i
    agreeing = [i for i in candidates if _agrees(segment, i, later, verb)]
    return agreeing[-1] if agreeing else candidates[0]


def _new_subject(segment: Sequence[Element], i: int) -> bool:
    return i > 0 and not isinstance(segment[i - 1], Preposition) and not _is_joint(segment[i - 1])


def _open_list(segment: Sequence[Element], joint: int, verb: int) -> bool:
    """Tell whether the elements before and after a joint can be members of one list."""
    before, after = segment[joint - 1], segment[joint + 1]
    if not isinstance(before, Mention) or not isinstance(after, Mention):
        return False
    if before.picture or before.refers:
        return before.picture and after.picture
    if after.picture:
        return True
    governor = _governor(segment, joint - 1, verb)
    if governor in ("by", "with", "into", "to", "replace", "object"):
        return True
    return not after.indefinite


def _governor(segment: Sequence[Element], i: int, verb: int) -> str:
    for j in range(i - 1, verb, -1):
        element = segment[j]
        if isinstance(element, Preposition):
            return element.name
        if not isinstance(element, Mention) and not _is_joint(element):
            break
    return "object"


def _agrees(segment: Sequence[Element], joint: int, later: int, verb: Verb) -> bool:
    subject = next((element for element in segment[joint:later] if isinstance(element, Mention)), None)
    if subject is None or verb.plural is None:
        return True
    several = any(_is_joint(element) for element in segment[joint + 1 : later])
    return subject.plural == verb.plural or (verb.plural and several)


@dataclass(frozen=True)
class _Scope:
    """Context in which the complements of a verb are read.

    Attributes:
        participants: Subjects of the verb.
        anchor: Referents of a preposition without an object.
        greedy: Mentions after "and" belong to the verb as well.
    """

    participants: Sequence[Participant]
    anchor: Sequence[Mention]
    greedy: bool


class ClauseReader:
    """Reader of one caption's clauses, in order; collects statements and the context for later pronouns."""

    def __init__(self) -> None:
        self._context = DiscourseContext()
        self._statements = Statements(self._context)
        self._last: list[Participant] = []

    def statements(self) -> list[Statement]:
        """Return the statements so far."""
        return self._statements.all()

    def read(self, clause: Sequence[Element]) -> None:
        """Read one clause."""
        for element in clause:
            if isinstance(element, Mention) and not element.refers and element.part is None:
                self._context.note(element)
        at = next((i for i, e in enumerate(clause) if isinstance(e, Verb) and e.form == "finite"), None)
        if at is None:
            self._read_fragment(clause)
            return
        verb = clause[at]
        assert isinstance(verb, Verb)
        existential = any(isinstance(e, Mark) and e.kind == "THERE" for e in clause[:at]) and verb.lemma in (
            "be",
            "appear",
            "exist",
            "have",
            "emerge",
            "come",
        )
        rest = list(clause[at + 1 :])
        if existential:
            participants, rest = self._read_subjects(rest, verb, until_phrase=True)
        else:
            participants, _ = self._read_subjects(clause[:at], verb)
        if not participants and not existential:
            participants, rest = self._read_inverted(clause[:at], rest, verb)
        if not participants and not existential:
            participants = [Participant(participant.mention) for participant in self._last]
        self._context.current = [
            thing
            for participant in participants
            for thing in self._context.resolve(participant.mention, subject=True)
            if thing.entity
        ]
        complements = Complements()
        if verb.lemma == "have" and not existential:
            self._read_with(rest, 0, [participant.mention for participant in participants], greedy=True)
            about = [participant.mention for participant in participants]
        else:
            self._read_complements(verb, rest, 0, complements, _Scope(participants, (), greedy=True))
            about = self._statements.event(verb, participants, complements, existential=existential)
        self._last = [Participant(mention) for mention in about] or participants
        self._context.close_clause(about)

    def _read_inverted(
        self, before: Sequence[Element], rest: list[Element], verb: Verb
    ) -> tuple[list[Participant], list[Element]]:
        """Read an inverted clause, its subject after the verb: "on both sides of the road stand many houses"."""
        if verb.passive or not before or not isinstance(before[0], Preposition):
            return [], rest
        if not rest or not isinstance(rest[0], Mention):
            return [], rest
        participants, _ = self._read_subjects([*before, *rest], verb)
        return participants, []

    def _read_fragment(self, clause: Sequence[Element]) -> None:
        participants, _ = self._read_subjects(clause, None)
        for participant in participants:
            self._statements.state_phrases([participant], participant.phrases)
            stated = any(
                s.head == participant.mention.entity or s.tail == participant.mention.entity for s in self.statements()
            )
            if participant.mention.new and participant.mention.entity and not stated:
                self._statements.add(participant.mention, "appear", None)
        self._context.close_clause([participant.mention for participant in participants])

    def _read_subjects(
        self, elements: Sequence[Element], verb: Verb | None, *, until_phrase: bool = False
    ) -> tuple[list[Participant], list[Element]]:
        """Read coordinated mentions with their prepositional phrases, relative clauses and companions.

        With `until_phrase`, the phrases after them are left to the verb ("there are houses on the bareland").
        """
        participants: list[Participant] = []
        batch: list[Participant] = []
        leading: list[tuple[Preposition, Mention | None]] = []
        i = 0
        while i < len(elements):
            element = elements[i]
            if isinstance(element, Mention):
                if batch and batch[-1].phrases:
                    batch = []
                participant = Participant(named_before(element, [other.mention for other in participants]))
                participants.append(participant)
                batch.append(participant)
                i += 1
            elif isinstance(element, Preposition) and element.name == "with" and participants:
                limit = self._end_of_companions(elements, i, participants, verb)
                i = self._read_with(elements[:limit], i + 1, [participants[-1].mention], greedy=True)
                batch = []
            elif isinstance(element, Preposition):
                if until_phrase and participants and element.name != "with":
                    return participants, list(elements[i:])
                mention = mention_at(elements, i + 1)
                if len(participants) > 1 and (mention is None or mention.text in ("it", "them")):
                    # "roads and houses around them": the earlier members of the same list.
                    participants[-1].phrases.extend((element, participant.mention) for participant in participants[:-1])
                else:
                    for participant in batch:
                        if participant is batch[-1] or mention is None or mention.entity != participant.mention.entity:
                            participant.phrases.append((element, mention))
                if not participants:
                    leading.append((element, mention))
                i += 1 if mention is None else 2
            elif isinstance(element, Verb) and element.form == "participle":
                hosts = batch[-1:] or participants[-1:]
                i = self._read_participle(element, elements, i + 1, _Scope(hosts, (), greedy=False))
                batch = []
            else:
                i += 1
        for participant in participants:
            participant.phrases.extend(leading)
        return participants, []

    def _end_of_companions(
        self, elements: Sequence[Element], start: int, participants: Sequence[Participant], verb: Verb | None
    ) -> int:
        """Find the end of "with …" before the verb: "a road with bypasses and some villas are built"."""
        joints = [
            i
            for i in range(start + 2, len(elements) - 1)
            if isinstance(elements[i], Mark) and isinstance(elements[i + 1], Mention)
        ]
        for i in joints:
            new = elements[i + 1]
            assert isinstance(new, Mention)
            closed = not isinstance(elements[i - 1], Mention)
            plural = (
                verb is not None
                and verb.plural is True
                and len(participants) == 1
                and not participants[0].mention.plural
            )
            if (closed or plural) and new.indefinite and (verb is None or verb.plural is not False):
                return i
        return len(elements)

    def _read_with(self, elements: Sequence[Element], i: int, hosts: Sequence[Mention], *, greedy: bool) -> int:
        """Read a "with" phrase: companions and their relations to the hosts; return the position after it."""
        anchor = [thing for host in hosts for thing in self._context.resolve(host, subject=True)]
        participants: list[Participant] = []
        batch: list[Participant] = []
        complete = False
        while i < len(elements):
            element = elements[i]
            if isinstance(element, Mention):
                if complete:
                    batch, complete = [], False
                batch.append(Participant(element))
                participants.append(batch[-1])
                i += 1
            elif isinstance(element, Mark) and element.kind in ("AND", "COMMA"):
                following = elements[i + 1] if i + 1 < len(elements) else None
                if not greedy or not isinstance(following, Mention | Preposition):
                    break
                i += 1
            elif isinstance(element, Preposition) and element.name == "with" and participants:
                i = self._read_with(elements, i + 1, [participants[-1].mention], greedy=False)
                complete = True
            elif isinstance(element, Preposition) and participants:
                mention = mention_at(elements, i + 1)
                self._statements.state_phrases(batch, [(element, mention)], anchor)
                complete = True
                i += 1 if mention is None else 2
            elif (
                isinstance(element, Verb) and element.form == "participle" and participants and element.lemma != REPLACE
            ):
                i = self._read_participle(element, elements, i + 1, _Scope(batch, anchor, greedy=False))
                complete = True
            else:
                break
        for participant in participants:
            if not participant.linked and not participant.mention.refers:
                for host in anchor:
                    if host.entity == SCENE:
                        self._statements.add(participant.mention, "appear", None)
                    else:
                        for companion in self._context.resolve(participant.mention):
                            if not companion.picture:
                                self._statements.add(host, "with", companion)
        return i

    def _read_participle(self, verb: Verb, elements: Sequence[Element], i: int, scope: _Scope) -> int:
        hosts, anchor = scope.participants, scope.anchor
        complements = Complements()
        i = self._read_complements(verb, elements, i, complements, scope)
        bare = [Participant(host.mention, linked=host.linked) for host in hosts]
        if anchor and not (complements.objects or complements.agents or complements.phrases) and not verb.passive:
            # "a road with many villas surrounding": the host is the object.
            complements.objects.extend(anchor)
        if (
            complements.objects
            or complements.agents
            or complements.phrases
            or complements.results
            or complements.replaced
            or anchor
        ):
            self._statements.event(verb, bare, complements, anchor=anchor)
        elif not verb.passive and verb.lemma in ENCLOSING:
            return i
        elif verb.passive:
            self._statements.event(verb, bare, complements, anchor=anchor)
        for host, copy in zip(hosts, bare, strict=True):
            host.linked |= copy.linked
        return i

    def _read_complements(
        self, verb: Verb, elements: Sequence[Element], i: int, complements: Complements, scope: _Scope
    ) -> int:
        """Read the complements of a verb into `complements`; return the position after them.

        Args:
            verb: The verb.
            elements: The clause.
            i: First position after the verb.
            complements: The complements to add to.
            scope: Subjects and referents of the verb.
        """
        participants, greedy = scope.participants, scope.greedy
        while i < len(elements):
            element = elements[i]
            if isinstance(element, Preposition):
                i = self._read_prepositional(verb, elements, i, complements, scope)
            elif isinstance(element, Mention):
                after_verb = i == 0 or isinstance(elements[i - 1], Verb | Mark)
                if not verb.passive or after_verb:
                    things, i = mentions_at(elements, i, greedy=greedy)
                    complements.objects.extend(things)
                else:
                    i += 1
            elif isinstance(element, Verb):
                if element.form == "finite":
                    break
                if element.form == "infinitive":
                    i = self._read_infinitive(element, elements, i + 1, complements, scope)
                    continue
                if not greedy and i > 0 and isinstance(elements[i - 1], Verb):
                    break
                before = elements[i - 1] if i > 0 else None
                hosts: Sequence[Participant] = participants
                if element.lemma in REPLACE_VERBS and not element.passive:
                    inner = Complements()
                    i = self._read_complements(element, elements, i + 1, inner, scope)
                    complements.replaced.extend(inner.objects)
                    complements.phrases.extend(inner.phrases)
                    continue
                if isinstance(before, Mention) and not before.picture:
                    hosts = [Participant(before)]
                elif complements.agents and verb.lemma in REPLACE_VERBS:
                    hosts = [Participant(agent) for agent in complements.agents]
                i = self._read_participle(element, elements, i + 1, replace(scope, participants=hosts))
            elif isinstance(element, Mark) and element.kind == "ADJ":
                complements.adjective = complements.adjective or element.text
                i += 1
            elif isinstance(element, Mark) and element.kind in ("AND", "COMMA") and not greedy:
                following = elements[i + 1] if i + 1 < len(elements) else None
                if not isinstance(following, Preposition):
                    break
                i += 1
            else:
                i += 1
        return i

    def _read_prepositional(
        self, verb: Verb, elements: Sequence[Element], i: int, complements: Complements, scope: _Scope
    ) -> int:
        preposition = elements[i]
        assert isinstance(preposition, Preposition)
        things, after = mentions_at(elements, i + 1, greedy=scope.greedy)
        name = preposition.name
        if name == "with":
            if verb.lemma in CONNECTING:
                complements.phrases.extend((Preposition("to", preposition.start, preposition.end), t) for t in things)
                if complements.objects and not verb.passive:
                    del complements.phrases[len(complements.phrases) - len(things) :]
                    complements.objects.extend(things)
                return after
            if verb.passive and verb.lemma in ENCLOSING | REPLACE_VERBS and not complements.agents:
                complements.agents.extend(things)
                return after
            if not things:
                return i + 1
            newest = complements.agents or complements.results
            hosts = newest[-1:] if newest else [participant.mention for participant in scope.participants[-1:]]
            if not newest and not verb.passive and complements.objects:
                hosts = complements.objects[-1:] if verb.lemma not in REPLACE_VERBS else hosts
            return self._read_with(elements, i + 1, hosts, greedy=scope.greedy)
        complements.add(verb, preposition, things)
        return after

    def _read_infinitive(
        self, verb: Verb, elements: Sequence[Element], i: int, complements: Complements, scope: _Scope
    ) -> int:
        inner = Complements()
        before = elements[i - 2] if i > 1 else None
        if verb.passive and isinstance(before, Mention):
            scope = replace(scope, participants=[Participant(before)])  # "for a new road to be built"
        i = self._read_complements(verb, elements, i, inner, scope)
        if verb.lemma in REPLACE_VERBS and not verb.passive:
            complements.replaced.extend(inner.objects)
            complements.phrases.extend(inner.phrases)
        else:
            self._statements.event(
                verb,
                [Participant(participant.mention) for participant in scope.participants],
                inner,
                anchor=scope.anchor,
            )
        return i


_MOST_WORDS: Final = 150
"""Words of a caption that are read, which bounds the recursion; captions have about twenty."""


class RulesExtractor:
    """Extractor of triples by rules: tagged words become noun phrases and verb groups, clauses, statements.

    spaCy's English tokenizer and lemma tables are loaded with the first caption.

    Args:
        settings: The pipeline that tags words.

    Raises:
        SettingsError: With the first caption: the pipeline that the settings name cannot be used.
    """

    name = "rules"

    def __init__(self, settings: RulesSettings | None = None) -> None:
        self._settings = settings or RulesSettings()

    @cached_property
    def _tagger(self) -> Tagger:
        return make_tagger(self._settings.pipeline)

    def extract(self, captions: Sequence[Caption]) -> list[Triple]:
        """Return the triples of all captions, in their order; see `records.Extractor`."""
        by_text: dict[str, list[Statement]] = {}
        triples: list[Triple] = []
        for caption in captions:
            if caption.text not in by_text:
                by_text[caption.text] = self._read(caption.text)
            triples.extend(
                caption.triple(*statement.labels, engine=self.name, span=statement.span)
                for statement in by_text[caption.text]
            )
        return triples

    def _read(self, text: str) -> list[Statement]:
        if not implies_change(text):
            return []
        words = self._tagger(text)[:_MOST_WORDS]
        if not _is_english(words):
            return []
        reader = ClauseReader()
        for clause in find_clauses(find_elements(words)):
            reader.read(clause)
        return reader.statements()


def _is_english(words: Sequence[Word]) -> bool:
    """Tell whether a quarter of the words are in the word lists, so that text in another language is not read."""
    alphabetic = [word for word in words if word.tag != "SUB" or word.text.isalpha()]
    return 4 * sum(word.tag != "NOUN" for word in alphabetic) >= len(alphabetic)
