"""Triples of change captions by a language model, in the same normal form as those of the rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from pipeline.caption_graph.llm.client import model_name
from pipeline.caption_graph.llm.questions import Answer, Question, QuestionItem, Rejected
from pipeline.caption_graph.llm.run import Estimate, LLMSession, Usage, ask, estimate
from pipeline.caption_graph.settings import LLMSettings, read_prompt
from pipeline.caption_graph.triples.normalisation import SCENE, canonical, entity_of, load_lemmas, normalise_entity
from pipeline.caption_graph.triples.records import Caption, Triple
from pipeline.datasets.no_change import implies_change
from pipeline.datasets.words import is_latin, normal_form, unspaced_length, word_parts, words

_MOST_LEMMAS = 5


class Statement(BaseModel):
    """Triple as the model writes it.

    Attributes:
        head: Entity that it is about.
        relation: What happens to it, or its relation to the tail.
        tail: Second entity, or "scene".
        support: The words of the caption that state it; `evidence` in the model's JSON.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", str_strip_whitespace=True)

    head: str
    relation: str
    tail: str
    support: str = Field(alias="evidence")


class TripleAnswer(Answer):
    """Triples of one caption; none where it states no change."""

    triples: list[Statement]


@dataclass
class LLMExtractor:
    """Extractor of triples by a language model.

    Attributes:
        session: Model, endpoint, answer store, treatment of captions without an accepted answer.
        failures: Captions of the last extraction without an accepted answer, each with the reason; only where they are
            skipped.
        usage: Requests and tokens of the last extraction.
    """

    session: LLMSession
    failures: list[tuple[Caption, str]] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)

    @property
    def name(self) -> str:
        """Value of `Triple.engine`."""
        return "llm"

    @property
    def model(self) -> str:
        """Name of the model."""
        return model_name(self.session.settings)

    def extract(self, captions: Sequence[Caption]) -> list[Triple]:
        """Return the triples of all captions, in the order of the captions, each statement once per caption.

        A caption that states no change (`implies_change`) has none and is not sent; equal sentences are sent once.

        Raises:
            SageccError: As `pipeline.caption_graph.llm.run.ask`.
        """
        changed = [caption for caption in captions if implies_change(caption.text)]
        if changed:
            # It takes seconds, during which an arriving answer would wait unstored, and be lost if the run is killed.
            load_lemmas()
        result = ask(triple_question(self.session.settings), _items(changed), self.session)
        self.usage = result.usage
        self.failures = [(changed[position], reason) for position, reason in result.failures.items()]
        return [
            triple
            for caption, answer in zip(changed, result.answers, strict=True)
            if answer is not None
            for triple in _triples(caption, answer.triples)
        ]

    def estimate(self, captions: Iterable[Caption]) -> Estimate:
        """Estimate what `extract` would send and cost; sends nothing and needs no key."""
        changed = [caption for caption in captions if implies_change(caption.text)]
        return estimate(triple_question(self.session.settings), _items(changed), self.session)


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


def check_triples(item: QuestionItem, answer: TripleAnswer) -> None:
    """Check an answer against its caption.

    Raises:
        Rejected: An entity or the quoted words do not occur in the caption, or a relation is not made of lemmas.
    """
    caption = item["caption"]
    entities = entities_in(caption)
    for statement in answer.triples:
        if find_support(statement.support, caption) is None:
            raise Rejected(f"the evidence {statement.support!r} is no piece of the caption")
        # A phrase without an entity ("the top left") is not rejected; `canonical` decides what becomes of it.
        for phrase, always in ((statement.head, None), (statement.tail, SCENE)):
            entity = normalise_entity(phrase)
            if entity not in (None, always) and not _names(caption, entities, entity):
                raise Rejected(f"the entity {entity!r} does not occur in the caption")
        normal = canonical(statement.head, statement.relation, statement.tail)
        if normal is not None and not _is_relation(normal[1], caption):
            raise Rejected(f"the relation {statement.relation!r} is not made of hyphenated lemmas")


def entities_in(caption: str) -> frozenset[str]:
    """Return every entity that a word of the caption, alone or with the word before it, can stand for."""
    spoken = words(caption)
    phrases = [list(spoken[start : end + 1]) for end in range(len(spoken)) for start in (end - 1, end) if start >= 0]
    return frozenset(entity for phrase in phrases if (entity := entity_of(phrase)) is not None)


def find_support(support: str, caption: str) -> tuple[int, int] | None:
    """Return the characters `start:end` of the first occurrence of `support` in the caption, None without one.

    Case, forms of Unicode, and white space and punctuation between the words, are ignored.
    """
    wanted = [part for part, _, _ in word_parts(support)]
    parts = list(word_parts(caption))
    if not wanted:
        return None
    for first in range(len(parts) - len(wanted) + 1):
        if [part for part, _, _ in parts[first : first + len(wanted)]] == wanted:
            return parts[first][1], parts[first + len(wanted) - 1][2]
    return None


def _names(caption: str, entities: frozenset[str], entity: str | None) -> bool:
    """Tell whether a caption names an entity; in a script without spaces that is a piece of it."""
    if entity in entities:
        return True
    return entity is not None and unspaced_length(entity) > 0 and entity in normal_form(caption)


def _is_relation(name: str, caption: str) -> bool:
    """Tell whether a relation is one to five hyphenated lemmas, in Latin letters where the caption is."""
    if is_latin(caption) and not is_latin(name):
        return False
    lemmas = name.split("-")
    return len(lemmas) <= _MOST_LEMMAS and all(
        [part for part, _, _ in word_parts(lemma)] and not any(sign.isnumeric() for sign in lemma) for lemma in lemmas
    )


def _items(captions: Iterable[Caption]) -> list[QuestionItem]:
    return [{"caption": " ".join(caption.text.split())} for caption in captions]


def _triples(caption: Caption, statements: Iterable[Statement]) -> list[Triple]:
    """Normalise statements; those without a normal form ("the top left is brighter") are dropped."""
    triples: dict[tuple[str, str, str], Triple] = {}
    for statement in statements:
        normal = canonical(statement.head, statement.relation, statement.tail)
        span = find_support(statement.support, caption.text)
        if normal is None or span is None:
            continue
        triple = caption.triple(*normal, engine="llm", span=span)
        triples.setdefault(triple.key, triple)
    return list(triples.values())
