"""How far two sets of triples agree: precision, recall and F1 by what is compared.

Captions in, triples out: the records that every extraction engine shares, and the file triples.jsonl.
"""

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

Family = Literal["appear", "disappear", "replace", "spatial", "other"]
FAMILIES: tuple[Family, ...] = get_args(Family)


class Caption(BaseModel):
    """One sentence about one pair.

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
        self, head: str, relation: str, tail: str, family: Family, *, engine: str, evidence: tuple[int, int]
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
            evidence=evidence,
        )


class Triple(BaseModel):
    """One statement of a caption, in the form that `pipeline.caption_graph.triples.normalisation` describes.

    Attributes:
        head: Entity that the statement is about.
        relation: Hyphenated lemmas: "appear-on", "build-along", "replace".
        tail: Second entity, or "scene" where the caption names none.
        family: What kind of statement it is.
        engine: Name of the engine that extracted it: "rules", "llm".
        pair: Id of the pair.
        sentence: Position of the sentence among the pair's captions, from 0.
        evidence: Characters `start:end` of the caption in which the statement is made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: str = Field(min_length=1)
    relation: str = Field(min_length=1)
    tail: str = Field(min_length=1)
    family: Family
    engine: str = Field(min_length=1)
    pair: str
    sentence: int = Field(ge=0)
    evidence: tuple[int, int]

    @model_validator(mode="after")
    def _span_in_order(self) -> Triple:
        start, end = self.evidence
        if not 0 <= start < end:
            raise ValueError(f"the evidence must be a span with 0 <= start < end, not {start}:{end}")
        return self

    @property
    def key(self) -> tuple[str, str, str]:
        """What is stated: head, relation, tail."""
        return self.head, self.relation, self.tail


class Extractor(Protocol):
    """An engine that finds the triples of captions."""

    @property
    def name(self) -> str:
        """What `Triple.engine` says: "rules", "llm"."""

    def extract(self, captions: Sequence[Caption]) -> list[Triple]:
        """Return the triples of all captions, in the order of the captions, each statement once per caption.

        A caption that says that nothing changed has none.
        """


def captions_of(pairs: Iterable[Pair]) -> list[Caption]:
    """List all captions of pairs, in order."""
    return [
        Caption(pair=pair.id, sentence=number, text=text) for pair in pairs for number, text in enumerate(pair.captions)
    ]


def write_triples(path: Path, triples: Iterable[Triple]) -> Path:
    """Write triples.jsonl: one triple a line, keys in the order of `Triple`."""
    lines = (json.dumps(triple.model_dump(mode="json"), ensure_ascii=False) + "\n" for triple in triples)
    return write_text(path, "".join(lines))


def read_triples(path: Path) -> list[Triple]:
    """Read triples.jsonl.

    Raises:
        DataError: It is missing, not UTF-8, or a line is no triple; the message names the line.
    """
    fix = "extract the triples again"
    try:
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
            place = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"line {number} is no triple: {place + ': ' if place else ''}{first['msg']}", where=path, fix=fix
            ) from error
    return triples


Labelled = tuple[str, str, str, str]
"""Head, relation, tail, family."""


@dataclass(frozen=True)
class Agreement:
    """Counts over all captions, and what follows from them.

    Attributes:
        correct: Found and expected.
        found: What the engine gave.
        expected: What the labels hold.
    """

    correct: int
    found: int
    expected: int

    @property
    def precision(self) -> float:
        """Share of what was found that is expected; 1 where nothing was found."""
        return self.correct / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of what is expected that was found; 1 where nothing is expected."""
        return self.correct / self.expected if self.expected else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        both = self.found + self.expected
        return 2 * self.correct / both if both else 1.0


_VIEWS: Final[dict[str, Callable[[Labelled], Hashable]]] = {
    "head, tail": lambda triple: (triple[0], triple[2]),
    "family": lambda triple: (triple[0], triple[2], triple[3]),
    "triple": lambda triple: triple[:3],
}


def agreement(
    found: Mapping[Hashable, Iterable[Labelled]], expected: Mapping[Hashable, Iterable[Labelled]]
) -> dict[str, Agreement]:
    """Compare the triples of captions.

    Captions are matched by key; one that only one side knows counts as without triples on the other. Within a caption
    the comparison is of multisets: a pair of entities that is expected twice must be found twice.

    Args:
        found: Triples by caption, as an engine gives them.
        expected: Triples by caption, as they should be.

    Returns:
        Agreement in "head, tail" (the two entities), "family" (entities and family) and "triple" (entities and
        relation), each counted over all captions.
    """
    table: dict[str, Agreement] = {}
    for name, view in _VIEWS.items():
        correct = total = wanted = 0
        for key in found.keys() | expected.keys():
            left = Counter(view(triple) for triple in found.get(key, ()))
            right = Counter(view(triple) for triple in expected.get(key, ()))
            correct += (left & right).total()
            total += left.total()
            wanted += right.total()
        table[name] = Agreement(correct, total, wanted)
    return table
