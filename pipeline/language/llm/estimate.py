"""What asking will take, before anything is sent: requests, tokens, cost."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from pipeline.language.llm.client import messages
from pipeline.language.llm.questions import Item, Question
from pipeline.language.llm.settings import LLMSettings

_BYTES_PER_TOKEN = 4


def tokens(text: str) -> int:
    """Estimate the tokens of a text: a quarter of its UTF-8 bytes, the usual rule of thumb for English."""
    return math.ceil(len(text.encode()) / _BYTES_PER_TOKEN)


def request_tokens(question: Question[Any], settings: LLMSettings, content: str) -> int:
    """Estimate the tokens of a request's prompt; a JSON schema sent beside the messages is counted too."""
    count = sum(tokens(message["content"]) for message in messages(question, settings, content))
    return count + (tokens(json.dumps(question.schema)) if settings.structured == "json_schema" else 0)


def answer_tokens(question: Question[Any], items: Sequence[Item]) -> int:
    """Estimate the tokens of the answer to a request about `items`."""
    return math.ceil(sum(question.characters(item) for item in items) / _BYTES_PER_TOKEN)
