"""The engine of rules: triples from captions without a model.

From the elements of a sentence to its clauses: one finite verb each, with what belongs to it.

Reads the clauses of a sentence from left to right: who does what, where, with what.
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
    Item,
    Memory,
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

    Full stops, semicolons and words such as "while" part clauses for certain. Between two finite verbs an "and" may
    part clauses or join two things of one clause; see `_split_between`.
    """
    clauses: list[list[Element]] = []
    part: list[Element] = []
    for element in [*elements, Mark("SUB", 0, 0)]:
        if isinstance(element, Mark) and element.kind in ("SUB", "REL"):
            clauses.extend(_split(part))
            part = []
        else:
            part.append(element)
    return [clause for clause in clauses if clause]


def _split(part: list[Element]) -> list[list[Element]]:
    verbs = [i for i, element in enumerate(part) if isinstance(element, Verb) and element.form == "finite"]
    if len(verbs) < 2:
        tail = _trailing_fragment(part, verbs[0]) if verbs else None
        return [part] if tail is None else [part[:tail], part[tail + 1 :]]
    clauses: list[list[Element]] = []
    start = 0
    for earlier, later in pairwise(verbs):
        cut = _split_between(part, earlier, later)
        clauses.append(part[start:cut])
        start = cut
    last = part[start:]
    tail = _trailing_fragment(last, verbs[-1] - start)
    clauses.extend([last] if tail is None else [last[:tail], last[tail + 1 :]])
    return [_without_joint(clause) for clause in clauses]


def _trailing_fragment(clause: list[Element], verb: int) -> int | None:
    """Find an "and" after which a clause without a verb of its own follows: "trees are removed and houses built"."""
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


def _split_between(part: list[Element], earlier: int, later: int) -> int:
    """Find where the clause of the verb at `later` begins.

    Candidates are the joints followed by a noun phrase. Where nothing stands before a joint that it could join to
    what follows, it parts the clauses; so does one before something new ("a", "two", "some") after a mere place.
    Otherwise the last joint decides after which the subject agrees with the verb in number.
    """
    verb = part[later]
    assert isinstance(verb, Verb)
    joints = [i for i in range(earlier + 1, later) if _is_joint(part[i])]
    candidates = [
        i for i in joints if isinstance(part[i + 1], Mention | Preposition | Mark) and not _is_joint(part[i + 1])
    ]
    candidates = [i for i in candidates if any(isinstance(element, Mention) for element in part[i:later])]
    if not candidates:
        if joints:
            return joints[-1]
        return next(
            (i for i in range(earlier + 1, later) if isinstance(part[i], Mention) and _new_subject(part, i)), later
        )
    for i in candidates:
        if not _open_list(part, i, earlier):
            return i
    agreeing = [i for i in candidates if _agrees(part, i, later, verb)]
    return agreeing[-1] if agreeing else candidates[0]


def _new_subject(part: Sequence[Element], i: int) -> bool:
    return i > 0 and not isinstance(part[i - 1], Preposition) and not _is_joint(part[i - 1])


def _open_list(part: Sequence[Element], joint: int, verb: int) -> bool:
    """Tell whether what stands before a joint can be coordinated with what follows it."""
    before, after = part[joint - 1], part[joint + 1]
    if not isinstance(before, Mention) or not isinstance(after, Mention):
        return False
    if before.picture or before.refers:
        return before.picture and after.picture
    if after.picture:
        return True
    governor = _governor(part, joint - 1, verb)
    if governor in ("by", "with", "into", "to", "replace", "object"):
        return True
    return not after.indefinite


def _governor(part: Sequence[Element], i: int, verb: int) -> str:
    for j in range(i - 1, verb, -1):
        element = part[j]
        if isinstance(element, Preposition):
            return element.name
        if not isinstance(element, Mention) and not _is_joint(element):
            break
    return "object"


def _agrees(part: Sequence[Element], joint: int, later: int, verb: Verb) -> bool:
    subject = next((element for element in part[joint:later] if isinstance(element, Mention)), None)
    if subject is None or verb.plural is None:
        return True
    several = any(_is_joint(element) for element in part[joint + 1 : later])
    return subject.plural == verb.plural or (verb.plural and several)


@dataclass(frozen=True)
class _Reach:
    """What belongs to a verb besides itself.

    Attributes:
        items: What it is said of.
        anchor: What a preposition without an object refers to.
        greedy: Things after "and" belong to the verb as well.
    """

    items: Sequence[Item]
    anchor: Sequence[Mention]
    greedy: bool


class Reader:
    """Reads one caption.

    Clauses are read in order; what they state accumulates, and so does what later pronouns can stand for.
    """

    def __init__(self) -> None:
        self._memory = Memory()
        self._statements = Statements(self._memory)
        self._last: list[Item] = []

    def statements(self) -> list[Statement]:
        """Return what has been stated so far."""
        return self._statements.all()

    def read(self, clause: Sequence[Element]) -> None:
        """Read one clause."""
        for element in clause:
            if isinstance(element, Mention) and not element.refers and element.part is None:
                self._memory.note(element)
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
            items, rest = self._read_subjects(rest, verb, until_place=True)
        else:
            items, _ = self._read_subjects(clause[:at], verb)
        if not items and not existential:
            items, rest = self._read_inverted(clause[:at], rest, verb)
        if not items and not existential:
            items = [Item(item.mention) for item in self._last]
        self._memory.current = [
            thing for item in items for thing in self._memory.resolve(item.mention, subject=True) if thing.entity
        ]
        found = Complements()
        if verb.lemma == "have" and not existential:
            self._read_with(rest, 0, [item.mention for item in items], greedy=True)
            about = [item.mention for item in items]
        else:
            self._read_complements(verb, rest, 0, found, _Reach(items, (), greedy=True))
            about = self._statements.event(verb, items, found, existential=existential)
        self._last = [Item(mention) for mention in about] or items
        self._memory.close_clause(about)

    def _read_inverted(
        self, before: Sequence[Element], rest: list[Element], verb: Verb
    ) -> tuple[list[Item], list[Element]]:
        """Read "on both sides of the road stand many houses": places first, the subject after the verb."""
        if verb.passive or not before or not isinstance(before[0], Preposition):
            return [], rest
        if not rest or not isinstance(rest[0], Mention):
            return [], rest
        items, _ = self._read_subjects([*before, *rest], verb)
        return items, []

    def _read_fragment(self, clause: Sequence[Element]) -> None:
        items, _ = self._read_subjects(clause, None)
        for item in items:
            self._statements.place([item], item.places)
            stated = any(s.head == item.mention.entity or s.tail == item.mention.entity for s in self.statements())
            if item.mention.new and item.mention.entity and not stated:
                self._statements.add(item.mention, "appear", None)
        self._memory.close_clause([item.mention for item in items])

    def _read_subjects(
        self, elements: Sequence[Element], verb: Verb | None, *, until_place: bool = False
    ) -> tuple[list[Item], list[Element]]:
        """Read coordinated things with their places, relative clauses and companions.

        With `until_place`, the places after them are left to the verb ("there are houses on the bareland").
        """
        items: list[Item] = []
        batch: list[Item] = []
        leading: list[tuple[Preposition, Mention | None]] = []
        i = 0
        while i < len(elements):
            element = elements[i]
            if isinstance(element, Mention):
                if batch and batch[-1].places:
                    batch = []
                item = Item(named_before(element, [other.mention for other in items]))
                items.append(item)
                batch.append(item)
                i += 1
            elif isinstance(element, Preposition) and element.name == "with" and items:
                limit = self._end_of_companions(elements, i, items, verb)
                i = self._read_with(elements[:limit], i + 1, [items[-1].mention], greedy=True)
                batch = []
            elif isinstance(element, Preposition):
                if until_place and items and element.name != "with":
                    return items, list(elements[i:])
                mention = mention_at(elements, i + 1)
                if len(items) > 1 and (mention is None or mention.text in ("it", "them")):
                    # "roads and houses around them": what was named before in the same list.
                    items[-1].places.extend((element, item.mention) for item in items[:-1])
                else:
                    for item in batch:
                        if item is batch[-1] or mention is None or mention.entity != item.mention.entity:
                            item.places.append((element, mention))
                if not items:
                    leading.append((element, mention))
                i += 1 if mention is None else 2
            elif isinstance(element, Verb) and element.form == "participle":
                hosts = batch[-1:] or items[-1:]
                i = self._read_participle(element, elements, i + 1, _Reach(hosts, (), greedy=False))
                batch = []
            else:
                i += 1
        for item in items:
            item.places.extend(leading)
        return items, []

    def _end_of_companions(
        self, elements: Sequence[Element], start: int, items: Sequence[Item], verb: Verb | None
    ) -> int:
        """Find where "with …" ends before the verb: "a road with bypasses and some villas are built"."""
        joints = [
            i
            for i in range(start + 2, len(elements) - 1)
            if isinstance(elements[i], Mark) and isinstance(elements[i + 1], Mention)
        ]
        for i in joints:
            new = elements[i + 1]
            assert isinstance(new, Mention)
            closed = not isinstance(elements[i - 1], Mention)
            plural = verb is not None and verb.plural is True and len(items) == 1 and not items[0].mention.plural
            if (closed or plural) and new.indefinite and (verb is None or verb.plural is not False):
                return i
        return len(elements)

    def _read_with(self, elements: Sequence[Element], i: int, hosts: Sequence[Mention], *, greedy: bool) -> int:
        """Read what stands after "with": companions and how they relate to their hosts."""
        anchor = [thing for host in hosts for thing in self._memory.resolve(host, subject=True)]
        items: list[Item] = []
        batch: list[Item] = []
        complete = False
        while i < len(elements):
            element = elements[i]
            if isinstance(element, Mention):
                if complete:
                    batch, complete = [], False
                batch.append(Item(element))
                items.append(batch[-1])
                i += 1
            elif isinstance(element, Mark) and element.kind in ("AND", "COMMA"):
                following = elements[i + 1] if i + 1 < len(elements) else None
                if not greedy or not isinstance(following, Mention | Preposition):
                    break
                i += 1
            elif isinstance(element, Preposition) and element.name == "with" and items:
                i = self._read_with(elements, i + 1, [items[-1].mention], greedy=False)
                complete = True
            elif isinstance(element, Preposition) and items:
                mention = mention_at(elements, i + 1)
                self._statements.place(batch, [(element, mention)], anchor)
                complete = True
                i += 1 if mention is None else 2
            elif isinstance(element, Verb) and element.form == "participle" and items and element.lemma != REPLACE:
                i = self._read_participle(element, elements, i + 1, _Reach(batch, anchor, greedy=False))
                complete = True
            else:
                break
        for item in items:
            if not item.linked and not item.mention.refers:
                for host in anchor:
                    if host.entity == SCENE:
                        self._statements.add(item.mention, "appear", None)
                    else:
                        for companion in self._memory.resolve(item.mention):
                            if not companion.picture:
                                self._statements.add(host, "with", companion)
        return i

    def _read_participle(self, verb: Verb, elements: Sequence[Element], i: int, reach: _Reach) -> int:
        hosts, anchor = reach.items, reach.anchor
        found = Complements()
        i = self._read_complements(verb, elements, i, found, reach)
        bare = [Item(host.mention, linked=host.linked) for host in hosts]
        if anchor and not (found.objects or found.agents or found.places) and not verb.passive:
            # "a road with many villas surrounding": the object is what they are with.
            found.objects.extend(anchor)
        if found.objects or found.agents or found.places or found.results or found.replaced or anchor:
            self._statements.event(verb, bare, found, anchor=anchor)
        elif not verb.passive and verb.lemma in ENCLOSING:
            return i
        elif verb.passive:
            self._statements.event(verb, bare, found, anchor=anchor)
        for host, copy in zip(hosts, bare, strict=True):
            host.linked |= copy.linked
        return i

    def _read_complements(
        self, verb: Verb, elements: Sequence[Element], i: int, found: Complements, reach: _Reach
    ) -> int:
        """Read what follows a verb into `found`; return where it ends.

        Args:
            verb: The verb.
            elements: The clause.
            i: First position after the verb.
            found: Takes the complements.
            reach: What else belongs to the verb.
        """
        items, greedy = reach.items, reach.greedy
        while i < len(elements):
            element = elements[i]
            if isinstance(element, Preposition):
                i = self._read_prepositional(verb, elements, i, found, reach)
            elif isinstance(element, Mention):
                after_verb = i == 0 or isinstance(elements[i - 1], Verb | Mark)
                if not verb.passive or after_verb:
                    things, i = mentions_at(elements, i, greedy=greedy)
                    found.objects.extend(things)
                else:
                    i += 1
            elif isinstance(element, Verb):
                if element.form == "finite":
                    break
                if element.form == "infinitive":
                    i = self._read_infinitive(element, elements, i + 1, found, reach)
                    continue
                if not greedy and i > 0 and isinstance(elements[i - 1], Verb):
                    break
                before = elements[i - 1] if i > 0 else None
                hosts: Sequence[Item] = items
                if element.lemma in REPLACE_VERBS and not element.passive:
                    inner = Complements()
                    i = self._read_complements(element, elements, i + 1, inner, reach)
                    found.replaced.extend(inner.objects)
                    found.places.extend(inner.places)
                    continue
                if isinstance(before, Mention) and not before.picture:
                    hosts = [Item(before)]
                elif found.agents and verb.lemma in REPLACE_VERBS:
                    hosts = [Item(agent) for agent in found.agents]
                i = self._read_participle(element, elements, i + 1, replace(reach, items=hosts))
            elif isinstance(element, Mark) and element.kind == "ADJ":
                found.adjective = found.adjective or element.text
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
        self, verb: Verb, elements: Sequence[Element], i: int, found: Complements, reach: _Reach
    ) -> int:
        preposition = elements[i]
        assert isinstance(preposition, Preposition)
        things, after = mentions_at(elements, i + 1, greedy=reach.greedy)
        name = preposition.name
        if name == "with":
            if verb.lemma in CONNECTING:
                found.places.extend((Preposition("to", preposition.start, preposition.end), t) for t in things)
                if found.objects and not verb.passive:
                    del found.places[len(found.places) - len(things) :]
                    found.objects.extend(things)
                return after
            if verb.passive and verb.lemma in ENCLOSING | REPLACE_VERBS and not found.agents:
                found.agents.extend(things)
                return after
            if not things:
                return i + 1
            newest = found.agents or found.results
            hosts = newest[-1:] if newest else [item.mention for item in reach.items[-1:]]
            if not newest and not verb.passive and found.objects:
                hosts = found.objects[-1:] if verb.lemma not in REPLACE_VERBS else hosts
            return self._read_with(elements, i + 1, hosts, greedy=reach.greedy)
        found.put(verb, preposition, things)
        return after

    def _read_infinitive(
        self, verb: Verb, elements: Sequence[Element], i: int, found: Complements, reach: _Reach
    ) -> int:
        inner = Complements()
        before = elements[i - 2] if i > 1 else None
        if verb.passive and isinstance(before, Mention):
            reach = replace(reach, items=[Item(before)])  # "for a new road to be built"
        i = self._read_complements(verb, elements, i, inner, reach)
        if verb.lemma in REPLACE_VERBS and not verb.passive:
            found.replaced.extend(inner.objects)
            found.places.extend(inner.places)
        else:
            self._statements.event(verb, [Item(item.mention) for item in reach.items], inner, anchor=reach.anchor)
        return i


_MOST_WORDS: Final = 150
"""Words of a caption that are read; captions have twenty, and nesting must end somewhere."""


class RulesExtractor:
    """Finds triples by grammar: words are tagged, joined to noun phrases and verb groups, cut into clauses and read.

    spaCy's English tokenizer and lemma tables are loaded with the first caption.

    Args:
        settings: Which pipeline tags the words.

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
        known: dict[str, list[Statement]] = {}
        triples: list[Triple] = []
        for caption in captions:
            if caption.text not in known:
                known[caption.text] = self._read(caption.text)
            triples.extend(
                caption.triple(*stated.labels, engine=self.name, evidence=stated.span) for stated in known[caption.text]
            )
        return triples

    def _read(self, text: str) -> list[Statement]:
        if not implies_change(text):
            return []
        words = self._tagger(text)[:_MOST_WORDS]
        if not _is_english(words):
            return []
        reader = Reader()
        for clause in find_clauses(find_elements(words)):
            reader.read(clause)
        return reader.statements()


def _is_english(words: Sequence[Word]) -> bool:
    """Tell whether a quarter of the words are known; in other languages a chance likeness is no verb."""
    spoken = [word for word in words if word.tag != "SUB" or word.text.isalpha()]
    return 4 * sum(word.tag != "NOUN" for word in spoken) >= len(spoken)
