"""From the text that a model returned to one verdict for each item that was asked."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

from pydantic import ValidationError

from pipeline.language.llm.questions import AnswerT, Item, Question, Rejected

_LIST = re.compile(r'"answers"\s*:\s*\[')
_BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class Verdict(Generic[AnswerT]):
    """What became of the items of one request, by position.

    Attributes:
        accepted: Answers that hold.
        rejected: Why the others have none; every position is in exactly one of both.
    """

    accepted: dict[int, AnswerT]
    rejected: dict[int, str]


def judge(question: Question[AnswerT], items: Sequence[Item], text: str) -> Verdict[AnswerT]:
    """Judge the answer `text` to a request about `items`, which it numbers from 1.

    What a model can do wrong costs only the items concerned: complete answers of a truncated text are kept, and an
    answer of the wrong form or content is rejected alone. One that names an item that was not asked is distrusted as
    a whole, because its numbers may all have slipped.
    """
    elements, complaint = _elements(text)
    everyone = range(len(items))
    if not elements:
        return Verdict({}, dict.fromkeys(everyone, complaint or "the list of answers is empty"))
    positions = [_position(element) for element in elements]
    if strange := [position for position in positions if position is not None and position not in everyone]:
        reason = f"the answer names item {strange[0] + 1}, which was not asked (1 to {len(items)} were)"
        return Verdict({}, dict.fromkeys(everyone, reason))
    times = Counter(positions)
    accepted: dict[int, AnswerT] = {}
    rejected: dict[int, str] = {}
    for position, element in zip(positions, elements, strict=True):
        if position is None:
            complaint = complaint or "an answer names no item"
        elif times[position] > 1:
            rejected[position] = f"the item was answered {times[position]} times in one answer"
        else:
            try:
                accepted[position] = accept(question, items[position], element)
            except Rejected as reason:
                rejected[position] = str(reason)
    for position in everyone:
        if position not in accepted:
            rejected.setdefault(position, complaint or "the item was left out of the answer")
    return Verdict(accepted, dict(sorted(rejected.items())))


def accept(question: Question[AnswerT], item: Item, element: Any) -> AnswerT:
    """Check one answer's form and content.

    Raises:
        Rejected: It is of another form or contradicts the item.
    """
    try:
        answer = question.answer.model_validate(element)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Rejected(f"not of the schema asked for: {place or 'answer'}: {first['msg']}") from None
    question.check(item, answer)
    return answer


def _elements(text: str) -> tuple[list[Any], str | None]:
    """Return the answers that `text` holds and, where it is not whole, what is wrong with it.

    Text around the JSON object (a code fence, a remark) is passed over.
    """
    if not text.strip():
        return [], "the answer is empty"
    start, end = text.find("{"), text.rfind("}") + 1
    if start < 0:
        return [], "the answer is not JSON"
    try:
        document = json.loads(text[start:end])
    except (ValueError, RecursionError):
        return _complete_elements(text), "the answer is cut off or not JSON"
    if not isinstance(document, dict) or not isinstance(document.get("answers"), list):
        return [], "the answer is of another schema: it has no list `answers`"
    return document["answers"], None


def _complete_elements(text: str) -> list[Any]:
    found = _LIST.search(text)
    if found is None:
        return []
    decoder = json.JSONDecoder()
    elements: list[Any] = []
    place = found.end()
    while True:
        between = _BETWEEN.match(text, place)
        place = place if between is None else between.end()
        try:
            element, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return elements
        elements.append(element)


def _position(element: Any) -> int | None:
    """Position that an answer names; None where it names none. Digits in quotes count, as some models write them."""
    number = element.get("id") if isinstance(element, dict) else None
    if isinstance(number, str) and re.fullmatch(r"[0-9]{1,6}", number):
        number = int(number)
    return number - 1 if isinstance(number, int) and not isinstance(number, bool) else None
