"""Replies of an OpenAI-compatible endpoint: the text in a response, and what failures say to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Clean = Callable[[str], str]
"""Makes foreign text fit for a message."""

_RETRYABLE = frozenset({408, 409, 425, 429})
_REASONING = frozenset({"reasoning", "reasoning_content", "thinking"})
"""Types of parts of a content, and fields of a message, that hold what the model wrote before its answer."""
_LONGER = (
    "raise `graph.build.llm.max_tokens` (some endpoints want `extra: {max_completion_tokens: N}`), or lower "
    "`captions_per_request`"
)
_BASE_URL = "`graph.build.llm.base_url` (or OPENAI_BASE_URL), the address before /chat/completions: most end in /v1"


@dataclass(frozen=True)
class Reply:
    """A model's reply.

    Attributes:
        text: The message's content; empty where the response has none that can be used.
        problem: Why it has none.
        fix: What to do about it if it lasts; None where the problem says nothing particular.
        prompt_tokens: Tokens of the request, as the endpoint counted them; 0 where it does not say.
        answer_tokens: Tokens of the answer, likewise.
    """

    text: str
    problem: str | None = None
    fix: str | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0


def read_response(text: str, clean: Clean) -> Reply:
    """Read the body of a response with status 200."""
    document = _parsed(text)
    try:
        choice = document["choices"][0]
        message = choice["message"]
        content, reason = message.get("content"), choice.get("finish_reason")
    except (LookupError, TypeError, AttributeError):
        return _no_completion(text, document, clean)
    usage = document.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    tokens = _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
    answer = _joined(content)
    cut = reason in ("length", "max_tokens")
    if answer.strip():
        return Reply(answer, None, f"the answer was cut off: {_LONGER}" if cut else None, *tokens)
    ended = f" (finish_reason: {clean(reason)})" if isinstance(reason, str) else ""
    if refusal := _refusal(message):
        fix = "take another model, or set `graph.build.extraction.on_bad_caption: skip`"
        return Reply("", f"the model refuses to answer: {clean(refusal)}", fix, *tokens)
    if _has_reasoning(message):
        fix = f"{_LONGER}; or switch the model's reasoning off by a field of `graph.build.llm.extra`"
        return Reply("", f"the response holds reasoning and no answer{ended}", fix, *tokens)
    if message.get("tool_calls"):
        fix = "set `graph.build.llm.structured` to json_object or none, or take another model"
        return Reply("", f"the model calls a tool in place of an answer{ended}", fix, *tokens)
    if isinstance(content, list) and content:
        fix = "take a model that answers in text"
        return Reply("", f"the answer holds no text, but {clean(_kinds(content))}{ended}", fix, *tokens)
    return Reply("", f"the answer is empty{ended}", _LONGER if cut else None, *tokens)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None


def _no_completion(text: str, document: Any, clean: Clean) -> Reply:
    said = clean(text)[:80]
    if isinstance(document, dict) and document.get("error"):
        return Reply("", f"the endpoint reports an error: {clean(_said(document))}", "see to what the endpoint reports")
    what = f"the response is no chat completion: {said}"
    if text.lstrip().startswith("data:"):
        return Reply("", what, "the endpoint streams its answers, which is not asked for: switch streaming off there")
    return Reply("", what, f"correct {_BASE_URL}; a web page or another format comes from another address")


def _joined(content: Any) -> str:
    """Return the text of a message's content: a string, or a list of parts, of which those of text are joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        content = [content]
    return "".join(_part_text(part) for part in content) if isinstance(content, list) else ""


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or part.get("type", "text") not in ("text", "output_text"):
        return ""
    text = part.get("text")
    if isinstance(text, Mapping):
        text = text.get("value")
    return text if isinstance(text, str) else ""


def _refusal(message: Mapping[str, Any]) -> str | None:
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    for source in (message, *parts):
        refusal = source.get("refusal") if isinstance(source, Mapping) else None
        if isinstance(refusal, str) and refusal.strip():
            return refusal
    return None


def _has_reasoning(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    kinds = {part.get("type") for part in parts if isinstance(part, Mapping)}
    return any(message.get(name) for name in _REASONING) or any(kind in _REASONING for kind in kinds if kind)


def _kinds(content: list[Any]) -> str:
    kinds = [part.get("type") if isinstance(part, Mapping) else type(part).__name__ for part in content]
    return f"parts of type {', '.join(dict.fromkeys(str(kind) for kind in kinds))}"


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _said(document: Mapping[str, Any]) -> str:
    error = document["error"]
    if isinstance(error, Mapping):
        error = error.get("message") or error
    return str(error)


@dataclass(frozen=True)
class Refusal:
    """What a response with an error status means.

    Attributes:
        what: What is wrong.
        fix: What to do about it.
        passes: Whether the same request may succeed later.
        limited: Whether all requests should slow down.
    """

    what: str
    fix: str
    passes: bool = False
    limited: bool = False


def read_refusal(
    status: int, codes: frozenset[str], reason: str, *, is_json: bool, model: str, variable: str | None
) -> Refusal:
    """Say what a response with an error status means.

    Args:
        status: The HTTP status.
        codes: Codes and types of the error that the body names.
        reason: What the body says, cleaned.
        is_json: Whether the body is JSON, as a server that knows the interface sends it.
        model: The model that was asked.
        variable: The environment variable that holds the key; None: no key is sent.
    """
    said = f"HTTP {status}: {reason}"
    exhausted = status == 402 or (status == 429 and bool(codes & {"insufficient_quota", "billing_hard_limit_reached"}))
    if exhausted:
        fix = "add credit or raise the limit there and run again: answers already stored are kept"
        return Refusal(f"the account's quota is used up (HTTP {status}): {reason}", fix)
    if status == 429:
        fix = (
            "run again later: answers so far are stored. Against rate limits lower `concurrency` or set "
            "`requests_per_minute` under `graph.build.llm.traffic`"
        )
        return Refusal(said, fix, passes=True, limited=True)
    if status in _RETRYABLE or status >= 500:
        fix = "the server has a fault of its own: see its log or status page, and run again later; answers are stored"
        return Refusal(said, fix, passes=True)
    if status in (401, 403):
        what = f"the endpoint refuses the API key (HTTP {status}): {reason}"
        if variable is None:
            return Refusal(what, "set `graph.build.llm.key_variable` to the environment variable that holds its key")
        return Refusal(what, f"put a key that is valid there and may use {model} into {variable}")
    what = f"the endpoint refuses the request (HTTP {status}): {reason}"
    return Refusal(what, _request_advice(status, codes, reason.lower(), is_json, model))


def _request_advice(status: int, codes: frozenset[str], reason: str, is_json: bool, model: str) -> str:
    """Return the advice that what the endpoint says points to; a list of the usual causes where it points to none."""
    names_model = bool(codes & {"model_not_found", "invalid_model"}) or (
        "model" in reason and any(word in reason for word in ("not found", "not exist", "unknown", "no such", "pull"))
    )
    if names_model:
        return (
            f"the endpoint knows no model {model}: name one of its own in `graph.build.llm.model`, or install it there"
        )
    if status in (404, 405, 410) and (not is_json or "model" not in reason):
        return f"the address is wrong, or serves no chat completions: correct {_BASE_URL}"
    if status == 407:
        return "give the proxy's user and password in the variable that names it (HTTPS_PROXY, HTTP_PROXY)"
    if status == 413 or "context" in reason or "too long" in reason or "too many tokens" in reason:
        return "lower `graph.build.llm.captions_per_request`, or take a model with a longer context"
    if "response_format" in reason or "json_schema" in reason or "json_object" in reason:
        return "set `graph.build.llm.structured` to `json_object` or `none`: the endpoint does not know this form"
    for field in ("temperature", "seed"):
        if field in reason:
            return f"set `graph.build.llm.{field}: null` (it is then not sent), or to a value that the model takes"
    if "max_tokens" in reason or "max_completion_tokens" in reason:
        return (
            "set `graph.build.llm.max_tokens: null`, or to a number that the model takes; some endpoints want "
            "`extra: {max_completion_tokens: N}`"
        )
    return (
        "under `graph.build.llm` check `model` and `base_url` (most end in /v1); an endpoint that knows no "
        "JSON schema needs `structured: json_object` or `none`, some models `temperature: null` or "
        "`seed: null`, a model with a short context fewer `captions_per_request`"
    )
