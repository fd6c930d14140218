"""Questions to a language model: prompt, schema of the answer, and the check of a reply item by item."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.files import content_key

_VERSION = 1  # rises whenever the same prompt, model and item would be asked in another way

QuestionItem = Mapping[str, Any]
"""Subject of one answer as the model sees it: JSON fields without `id` and `problem`."""


class Answer(BaseModel):
    """Answer to one item; unknown fields are dropped.

    Attributes:
        id: Number of the item within its request, from 1.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", str_strip_whitespace=True)

    id: int


AnswerT = TypeVar("AnswerT", bound=Answer)


class Rejected(Exception):  # noqa: N818 - the result of a check, not an error of the program
    """Rejection of an answer that contradicts its item; the message tells the model what to correct."""


@dataclass(frozen=True)
class Question(Generic[AnswerT]):
    """Kind of question.

    Attributes:
        name: Short name, used in file names: "triples".
        items: What the items are called in the plural: "captions".
        prompt: Text of the system message.
        answer: Form of the answer to one item.
        check: Raises `Rejected` where an answer contradicts its item.
        characters: Expected length of the answer to an item, for estimates.
        items_per_request: Items that share a request.
        label: How an item is named in messages.
    """

    name: str
    items: str
    prompt: str
    answer: type[AnswerT]
    check: Callable[[QuestionItem, AnswerT], None]
    characters: Callable[[QuestionItem], int]
    items_per_request: int
    label: Callable[[QuestionItem], str]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of a whole answer, within the subset that strict structured output accepts.

        Every object closed, every field required, no references.
        """
        document = self.answer.model_json_schema()
        one = _plain(document, document.get("$defs", {}))
        return {
            "type": "object",
            "properties": {"answers": {"type": "array", "items": one}},
            "required": ["answers"],
            "additionalProperties": False,
        }

    def key(self, model: str, parameters: Mapping[str, Any]) -> str:
        """Return the content key of everything but the item that determines an answer."""
        return content_key(_VERSION, self.name, self.prompt, self.schema, model, dict(parameters))


def item_key(item: QuestionItem) -> str:
    """Return the content key of an item."""
    return content_key(dict(item))


def batches(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Split `keys` into requests of `size` items; the last may be smaller."""
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def compose(question: Question[Any], items: Sequence[QuestionItem], problems: Sequence[str | None]) -> str:
    """Return the user message: the items, numbered from 1, each with the problem of its last answer."""
    entries = [
        {"id": number, **item} | ({} if problem is None else {"problem": problem})
        for number, (item, problem) in enumerate(zip(items, problems, strict=True), start=1)
    ]
    return json.dumps({question.items: entries}, ensure_ascii=False)


def _plain(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Resolve references, drop titles and descriptions, close objects and require all their fields."""
    if isinstance(node, list):
        return [_plain(value, definitions) for value in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _plain(definitions[node["$ref"].rsplit("/", 1)[1]], definitions)
    if node.get("type") == "object":
        properties = {name: _plain(value, definitions) for name, value in node["properties"].items()}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    return {
        key: _plain(value, definitions) for key, value in node.items() if key not in ("title", "description", "$defs")
    }


_LIST = re.compile(r'"answers"\s*:\s*\[')
_BARE_LIST = re.compile(r"\s*(```\w*\s*)?\[")
_THOUGHTS = re.compile(r"\A\s*<think(ing)?>.*?</think(ing)?>", re.DOTALL)
_BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class CheckedReply(Generic[AnswerT]):
    """Outcome for the items of one request, by position.

    Attributes:
        accepted: Answers that passed the check.
        rejected: Reasons why the other items have none; every position is in exactly one of the two.
    """

    accepted: dict[int, AnswerT]
    rejected: dict[int, str]


def check_reply(question: Question[AnswerT], items: Sequence[QuestionItem], text: str) -> CheckedReply[AnswerT]:
    """Check the reply `text` to a request about `items`, which it numbers from 1.

    A mistake costs only the items concerned: complete answers of a truncated text are accepted, and an answer of the
    wrong form or content is rejected alone. A reply with an unknown item number is rejected whole, because all its
    numbers may be shifted.
    """
    elements, complaint = _elements(text)
    everyone = range(len(items))
    if not elements:
        return CheckedReply({}, dict.fromkeys(everyone, complaint or "the list of answers is empty"))
    positions = [_position(element) for element in elements]
    if strange := [position for position in positions if position is not None and position not in everyone]:
        reason = f"the answer names item {strange[0] + 1}, which was not asked (1 to {len(items)} were)"
        return CheckedReply({}, dict.fromkeys(everyone, reason))
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
    return CheckedReply(accepted, dict(sorted(rejected.items())))


def accept(question: Question[AnswerT], item: QuestionItem, element: Any) -> AnswerT:
    """Check one answer's form and content.

    Raises:
        Rejected: It is of another form or contradicts the item.
    """
    try:
        answer = question.answer.model_validate(element)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        location = ".".join(map(str, first["loc"]))
        raise Rejected(f"not of the schema asked for: {location or 'answer'}: {first['msg']}") from None
    question.check(item, answer)
    return answer


def _elements(text: str) -> tuple[list[Any], str | None]:
    """Return the answers in `text` and, where it is incomplete, what is wrong with it.

    Text around the JSON (a code fence, a remark, the model's reasoning between <think> tags) is ignored. A list of
    numbered answers, or one numbered answer, without the object around it is taken too.
    """
    text = _THOUGHTS.sub("", text, count=1)
    if not text.strip():
        return [], "the answer is empty"
    document = _json_between(text, "{", "}")
    if isinstance(document, dict):
        if isinstance(document.get("answers"), list):
            return document["answers"], None
        if _position(document) is not None:
            return [document], None
    answers = _json_between(text, "[", "]")
    if isinstance(answers, list) and answers and all(_position(element) is not None for element in answers):
        return answers, None
    if document is not None or answers is not None:
        return [], "the answer is of another schema: it has no list `answers`"
    if "{" not in text:
        return [], "the answer is not JSON"
    return _complete_elements(text), "the answer is cut off or not JSON"


def _json_between(text: str, first: str, last: str) -> Any:
    """Return the JSON value from the first `first` to the last `last` in a text; None where there is none."""
    start, end = text.find(first), text.rfind(last) + 1
    try:
        return json.loads(text[start:end]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        return None


def _complete_elements(text: str) -> list[Any]:
    start = _LIST.search(text) or _BARE_LIST.match(text)
    if start is None:
        return []
    decoder = json.JSONDecoder()
    elements: list[Any] = []
    offset = start.end()
    while True:
        separator = _BETWEEN.match(text, offset)
        offset = offset if separator is None else separator.end()
        try:
            element, offset = decoder.raw_decode(text, offset)
        except (ValueError, RecursionError):
            return elements
        elements.append(element)


def _position(element: Any) -> int | None:
    """Return the position that an answer names, None without one; some models write the number in quotes."""
    number = element.get("id") if isinstance(element, dict) else None
    if isinstance(number, str) and re.fullmatch(r"[0-9]{1,6}", number):
        number = int(number)
    return number - 1 if isinstance(number, int) and not isinstance(number, bool) else None
