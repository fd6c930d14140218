"""What a language model can be asked: prompt, form of the answer, and the check of each answer against its item."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from pipeline.errors import DataError
from pipeline.files import content_key
from pipeline.language.llm.settings import LLMSettings

_VERSION = 1  # rises whenever the same prompt, model and item would be asked in another way

Item = Mapping[str, Any]
"""What one answer is about, as the model is shown it: JSON fields without `id` and `problem`."""


class Answer(BaseModel):
    """The answer to one item. Fields that the schema does not know are dropped, not kept.

    Attributes:
        id: Number of the item within its request, from 1; has no meaning outside of it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", str_strip_whitespace=True)

    id: int


AnswerT = TypeVar("AnswerT", bound=Answer)


class Rejected(Exception):  # noqa: N818 - a verdict on an answer, not an error of the program
    """An answer that contradicts its item; the text says why, in words that the model can use to mend it."""


@dataclass(frozen=True)
class Question(Generic[AnswerT]):
    """One kind of question.

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
    check: Callable[[Item, AnswerT], None]
    characters: Callable[[Item], int]
    items_per_request: int
    label: Callable[[Item], str]

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
        """Content key of all that shapes an answer, the item left aside."""
        return content_key(_VERSION, self.name, self.prompt, self.schema, model, dict(parameters))


def item_key(item: Item) -> str:
    """Content key of an item."""
    return content_key(dict(item))


def batches(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Cut `keys` into requests of `size` items; the last may be smaller."""
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def compose(question: Question[Any], items: Sequence[Item], problems: Sequence[str | None]) -> str:
    """Write the user message: the items, numbered from 1, with what was wrong with the last answer to each."""
    shown = [
        {"id": number, **item} | ({} if problem is None else {"problem": problem})
        for number, (item, problem) in enumerate(zip(items, problems, strict=True), start=1)
    ]
    return json.dumps({question.items: shown}, ensure_ascii=False)


def read_prompt(settings: LLMSettings, name: str) -> str:
    """Read the prompt `name`.md: the user's version where `settings.prompts` names a folder that has one.

    Raises:
        DataError: The folder or file cannot be read, or the prompt is empty.
    """
    if settings.prompts is None:
        return files(__package__).joinpath("prompts", f"{name}.md").read_text(encoding="utf-8").strip()
    path = Path(settings.prompts) / f"{name}.md"
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the prompt: {error}",
            where=path,
            fix="set `graph.build.llm.prompts` to null: prompts come along",
        ) from error
    if not text:
        raise DataError("the prompt is empty", where=path, fix="write it, or set `graph.build.llm.prompts` to null")
    return text


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
