"""Captions in, triples out: records that all extraction engines share, triples.jsonl, and agreement of engines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.datasets.records import Pair
from pipeline.errors import DataError
from pipeline.files import write_text
from pipeline.system_errors import reading

Family = Literal["appear", "disappear", "replace", "spatial", "other"]
FAMILIES: tuple[Family, ...] = get_args(Family)


class Caption(BaseModel):
    """Sentence about one pair.

    Attributes:
        pair: Id of the pair.
        sentence: Position of the sentence among the pair's captions, from 0.
        text: The sentence as the annotator wrote it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pair: str
    sentence: int = Field(ge=0)
    text: str

    def triple(
        self, head: str, relation: str, tail: str, family: Family, *, engine: str, span: tuple[int, int]
    ) -> Triple:
        """Return a statement of this caption."""
        return Triple(
            head=head,
            relation=relation,
            tail=tail,
            family=family,
            engine=engine,
            pair=self.pair,
            sentence=self.sentence,
            span=span,
        )


class Triple(BaseModel):
    """Statement of a caption, in the normal form of `pipeline.caption_graph.triples.normalisation`.

    Attributes:
        head: Entity that the statement is about.
        relation: Hyphenated lemmas: "appear-on", "build-along", "replace".
        tail: Second entity, or "scene" where the caption names none.
        family: Kind of statement.
        engine: Name of the engine that extracted it: "rules", "llm".
        pair: Id of the pair.
        sentence: Position of the sentence among the pair's captions, from 0.
        span: Characters `start:end` of the caption that state it; `evidence` in triples.jsonl.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    head: str = Field(min_length=1)
    relation: str = Field(min_length=1)
    tail: str = Field(min_length=1)
    family: Family
    engine: str = Field(min_length=1)
    pair: str
    sentence: int = Field(ge=0)
    span: tuple[int, int] = Field(alias="evidence")

    @model_validator(mode="after")
    def _span_in_order(self) -> Triple:
        start, end = self.span
        if not 0 <= start < end:
            raise ValueError(f"the evidence must be a span with 0 <= start < end, not {start}:{end}")
        return self

    @property
    def key(self) -> tuple[str, str, str]:
        """Head, relation, tail."""
        return self.head, self.relation, self.tail


class Extractor(Protocol):
    """Engine that extracts the triples of captions."""

    @property
    def name(self) -> str:
        """Value of `Triple.engine`: "rules", "llm"."""

    def extract(self, captions: Sequence[Caption]) -> list[Triple]:
        """Return the triples of all captions, in the order of the captions, each statement once per caption.

        A caption that states no change has none.
        """


def captions_of(pairs: Iterable[Pair]) -> list[Caption]:
    """List all captions of pairs, in order."""
    return [
        Caption(pair=pair.id, sentence=number, text=text) for pair in pairs for number, text in enumerate(pair.captions)
    ]


def write_triples(path: Path, triples: Iterable[Triple]) -> Path:
    """Write triples.jsonl: one triple a line, keys in the order of `Triple`'s fields."""
    lines = (json.dumps(triple.model_dump(mode="json", by_alias=True), ensure_ascii=False) + "\n" for triple in triples)
    return write_text(path, "".join(lines))


def read_triples(path: Path) -> list[Triple]:
    """Read triples.jsonl.

    Raises:
        DataError: It is missing, not UTF-8, or a line is no triple; the message names the line.
    """
    fix = "extract the triples again"
    try:
        with reading(path):
            text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror or error}", where=path, fix=fix) from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: byte {error.start} cannot be decoded", where=path, fix=fix) from error
    triples: list[Triple] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            triples.append(Triple.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            location = ".".join(map(str, first["loc"]))
            raise DataError(
                f"line {number} is no triple: {location + ': ' if location else ''}{first['msg']}", where=path, fix=fix
            ) from error
    return triples


Labelled = tuple[str, str, str, str]
"""Head, relation, tail, family."""


@dataclass(frozen=True)
class Agreement:
    """Counts over all captions, and precision, recall and F1.

    Attributes:
        true_positives: Triples that are both predicted and expected.
        predicted: Triples of the engine.
        expected: Triples of the labels.
    """

    true_positives: int
    predicted: int
    expected: int

    @property
    def precision(self) -> float:
        """Share of the predicted triples that are expected; 1 where none is predicted."""
        return self.true_positives / self.predicted if self.predicted else 1.0

    @property
    def recall(self) -> float:
        """Share of the expected triples that are predicted; 1 where none is expected."""
        return self.true_positives / self.expected if self.expected else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.predicted + self.expected
        return 2 * self.true_positives / total if total else 1.0


_VIEWS: Final[dict[str, Callable[[Labelled], Hashable]]] = {
    "head, tail": lambda triple: (triple[0], triple[2]),
    "family": lambda triple: (triple[0], triple[2], triple[3]),
    "triple": lambda triple: triple[:3],
}


def agreement(
    predicted: Mapping[Hashable, Iterable[Labelled]], expected: Mapping[Hashable, Iterable[Labelled]]
) -> dict[str, Agreement]:
    """Compare the triples of captions.

    Captions are matched by key; one that only one side has counts as without triples on the other. Within a caption
    multisets are compared: a pair of entities that is expected twice must be predicted twice.

    Args:
        predicted: Triples of an engine, by caption.
        expected: True triples, by caption.

    Returns:
        Agreement in "head, tail" (the two entities), "family" (entities and family) and "triple" (entities and
        relation), each counted over all captions.
    """
    table: dict[str, Agreement] = {}
    for name, view in _VIEWS.items():
        true_positives = all_predicted = all_expected = 0
        for key in predicted.keys() | expected.keys():
            predictions = Counter(view(triple) for triple in predicted.get(key, ()))
            labels = Counter(view(triple) for triple in expected.get(key, ()))
            true_positives += (predictions & labels).total()
            all_predicted += predictions.total()
            all_expected += labels.total()
        table[name] = Agreement(true_positives, all_predicted, all_expected)
    return table
