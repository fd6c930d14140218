"""Triples of change captions by a language model, held to the same convention as those of the rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from pipeline.caption_graph.llm.client import model_name
from pipeline.caption_graph.llm.questions import Answer, Item, Question, Rejected
from pipeline.caption_graph.llm.run import Asking, Estimate, Usage, ask, estimate
from pipeline.caption_graph.settings import LLMSettings, read_prompt
from pipeline.caption_graph.triples.normalisation import SCENE, canonical, entity_of, load_lemmas, normalise_entity
from pipeline.caption_graph.triples.records import Caption, Triple
from pipeline.datasets.no_change import implies_change
from pipeline.datasets.vocabulary import tokenize

_RELATION = re.compile(r"[a-z]+(?:-[a-z]+){0,4}")
_WORD = re.compile(r"\w+")


class Statement(BaseModel):
    """One triple as the model writes it.

    Attributes:
        head: Entity that it is about.
        relation: What happens to it or how it stands.
        tail: Second entity, or "scene".
        evidence: The words of the caption that state it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", str_strip_whitespace=True)

    head: str
    relation: str
    tail: str
    evidence: str


class TripleAnswer(Answer):
    """The triples of one caption; none where it says that nothing changed."""

    triples: list[Statement]


@dataclass
class LLMExtractor:
    """Extracts triples with a language model.

    Attributes:
        asking: Model, endpoint, store, what to do about captions without a usable answer.
        failures: Captions of the last extraction that got no usable answer, each with the reason; only where they are
            skipped.
        usage: What the last extraction has sent and spent.
    """

    asking: Asking
    failures: list[tuple[Caption, str]] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)

    @property
    def name(self) -> str:
        """What `Triple.engine` says."""
        return "llm"

    @property
    def model(self) -> str:
        """Name of the model that is asked."""
        return model_name(self.asking.settings)

    def extract(self, captions: Sequence[Caption]) -> list[Triple]:
        """Return the triples of all captions, in the order of the captions, each statement once per caption.

        A caption that says that nothing changed (`implies_change`) has none and is not asked about; equal sentences
        are asked once.

        Raises:
            SageccError: As `pipeline.caption_graph.llm.run.ask`.
        """
        asked = [caption for caption in captions if implies_change(caption.text)]
        if asked:
            # It takes seconds; an answer that came meanwhile would wait for it, and a kill would lose it.
            load_lemmas()
        found = ask(triple_question(self.asking.settings), _items(asked), self.asking)
        self.usage = found.usage
        self.failures = [(asked[position], reason) for position, reason in found.failures.items()]
        return [
            triple
            for caption, answer in zip(asked, found.answers, strict=True)
            if answer is not None
            for triple in _triples(caption, answer.triples)
        ]

    def estimate(self, captions: Iterable[Caption]) -> Estimate:
        """Tell what `extract` would send and cost; asks nothing and needs no key."""
        asked = [caption for caption in captions if implies_change(caption.text)]
        return estimate(triple_question(self.asking.settings), _items(asked), self.asking)


def triple_question(settings: LLMSettings) -> Question[TripleAnswer]:
    """Return the question for the triples of captions; an item is `{"caption": text}`."""
    return Question(
        name="triples",
        items="captions",
        prompt=read_prompt(settings, "triples"),
        answer=TripleAnswer,
        check=check_triples,
        # A change caption makes about one and a half triples, each a hundred characters of JSON and its evidence.
        characters=lambda item: 30 + 3 * (100 + len(item["caption"])) // 2,
        items_per_request=settings.captions_per_request,
        label=lambda item: repr(item["caption"] if len(item["caption"]) <= 100 else item["caption"][:99] + "…"),
    )


def check_triples(item: Item, answer: TripleAnswer) -> None:
    """Hold an answer against its caption.

    Raises:
        Rejected: An entity does not occur in the caption, the evidence is no piece of it, or a relation is no word.
    """
    caption = item["caption"]
    known = entities_in(caption)
    for statement in answer.triples:
        if find_evidence(statement.evidence, caption) is None:
            raise Rejected(f"the evidence {statement.evidence!r} is no piece of the caption")
        # A phrase without an entity ("the top left") is no invention; the convention decides what becomes of it.
        for phrase, always in ((statement.head, None), (statement.tail, SCENE)):
            entity = normalise_entity(phrase)
            if entity not in known and entity not in (None, always):
                raise Rejected(f"the entity {entity!r} does not occur in the caption")
        normal = canonical(statement.head, statement.relation, statement.tail)
        if normal is not None and not _RELATION.fullmatch(normal[1]):
            raise Rejected(f"the relation {statement.relation!r} is not made of hyphenated lemmas")


def entities_in(caption: str) -> frozenset[str]:
    """Return every entity that a word of the caption, alone or with the word before it, can stand for."""
    words = tokenize(caption)
    phrases = [list(words[start : end + 1]) for end in range(len(words)) for start in (end - 1, end) if start >= 0]
    return frozenset(entity for phrase in phrases if (entity := entity_of(phrase)) is not None)


def find_evidence(evidence: str, caption: str) -> tuple[int, int] | None:
    """Return the characters `start:end` of the caption that `evidence` quotes, its first occurrence.

    Letters count; case, white space and punctuation between the words do not.
    """
    words = _WORD.findall(evidence)
    if not words:
        return None
    found = re.search(r"(?<!\w)" + r"\W+".join(map(re.escape, words)) + r"(?!\w)", caption, re.IGNORECASE)
    return None if found is None else found.span()


def _items(captions: Iterable[Caption]) -> list[Item]:
    return [{"caption": " ".join(caption.text.split())} for caption in captions]


def _triples(caption: Caption, statements: Iterable[Statement]) -> list[Triple]:
    """Bring statements to the convention; what it has no form for ("the top left is brighter") falls away."""
    triples: dict[tuple[str, str, str], Triple] = {}
    for statement in statements:
        normal = canonical(statement.head, statement.relation, statement.tail)
        span = find_evidence(statement.evidence, caption.text)
        if normal is None or span is None:
            continue
        triple = caption.triple(*normal, engine="llm", evidence=span)
        triples.setdefault(triple.key, triple)
    return list(triples.values())
