"""Client of an OpenAI-compatible endpoint: its address and key, the pace of requests, one request and its failures.

The key is read from the environment and leaves this module in the client's header alone.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipeline.caption_graph.llm.questions import Question
from pipeline.caption_graph.settings import LLMSettings, TrafficSettings, checked_address
from pipeline.errors import ServiceError, SettingsError

if TYPE_CHECKING:
    import openai

_DEFAULT_ADDRESS = "https://api.openai.com/v1"
_ADDRESS_VARIABLE = "OPENAI_BASE_URL"
_SHOWN = 300


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint.

    Attributes:
        address: Its base address, without a final slash.
        model: Name of the model asked there.
        key: The API key; None where the endpoint asks for none. Not part of the representation.
        key_variable: The environment variable it came from.
    """

    address: str
    model: str
    key: str | None = field(repr=False)
    key_variable: str | None

    def holds_key(self, text: str) -> bool:
        """Tell whether `text` contains the key."""
        return self.key is not None and self.key in text

    def clean(self, text: str) -> str:
        """Return foreign text for a message: one short line of printable characters, the key masked."""
        if self.key is not None:
            text = text.replace(self.key, "***")
        text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
        return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def model_name(settings: LLMSettings) -> str:
    """Return the name of the model to ask.

    Raises:
        SettingsError: The settings name none.
    """
    if settings.model is None:
        raise SettingsError(
            "no language model is named",
            where="`graph.build.llm.model`",
            fix="name one that the endpoint knows: --set graph.build.llm.model=NAME",
        )
    return settings.model


def find_endpoint(settings: LLMSettings) -> Endpoint:
    """Return the endpoint: its address from the settings or the environment, its key from the environment alone.

    Raises:
        SettingsError: No model is named, the address cannot be used, or `key_variable` is no variable's name.
        ServiceError: The key is missing or holds characters that no key has.
    """
    model = model_name(settings)
    address = settings.base_url
    if address is None:
        address = checked_address(os.environ.get(_ADDRESS_VARIABLE) or _DEFAULT_ADDRESS, _ADDRESS_VARIABLE)
    key = _read_key(settings.key_variable)
    if key is not None and (key in settings.model_dump_json() or key in address):
        raise SettingsError(
            "the API key stands in the settings, which are written beside every result",
            where="`graph.build.llm`",
            fix="remove it there; the environment is the only place it is read from",
        )
    return Endpoint(address, model, key, settings.key_variable)


def _read_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise SettingsError(
            "`key_variable` must be the name of an environment variable",
            where="`graph.build.llm.key_variable`",
            fix="name the variable, such as OPENAI_API_KEY, and put the key into the environment, never into a file",
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ServiceError(
            "no API key for the language model",
            where=f"environment variable {variable}",
            fix=f"run `export {variable}=…`, or set `graph.build.llm.key_variable` to null where the endpoint "
            "asks for none",
        )
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        # The HTTP library would refuse the header too, but with the key in its message.
        raise ServiceError(
            "the API key holds spaces or characters outside ASCII",
            where=f"environment variable {variable}",
            fix="copy the key again, without line breaks or quotes around it",
        )
    return key


_MINUTE = 60.0


class Pace:
    """Schedule of request starts under rate limits; all times in seconds of the caller's clock.

    Each request delays the next by its share of both limits (1 / requests per minute, tokens / tokens per minute), so
    the average rate stays below them from the first request on.
    """

    def __init__(self, traffic: TrafficSettings) -> None:
        self._requests = traffic.requests_per_minute
        self._tokens = traffic.tokens_per_minute
        self._next = -math.inf
        self._held = -math.inf

    def book(self, now: float, tokens: int) -> float:
        """Book the next free start for a request of about `tokens` tokens, and return it."""
        start = max(now, self._next)
        gap = _MINUTE / self._requests if self._requests else 0.0
        if self._tokens:
            gap = max(gap, _MINUTE * tokens / self._tokens)
        self._next = start + gap
        return start

    def hold(self, until: float) -> None:
        """Delay all requests until `until`, as the endpoint has asked."""
        self._held = max(self._held, until)

    def wait(self, now: float, start: float) -> float:
        """Return the seconds from `now` until a request booked for `start` may start."""
        return max(0.0, start - now, self._held - now)


def backoff(traffic: TrafficSettings, attempt: int, key: str) -> float:
    """Return the seconds to wait after failure number `attempt` (from 0) of the request `key`.

    The wait doubles from `backoff` to `backoff_limit`, less up to half of it: a jitter derived from key and attempt, so
    that requests that failed together are repeated apart, and every run waits alike.
    """
    longest = min(traffic.backoff_limit, traffic.backoff * 2.0 ** min(attempt, 60))
    digest = hashlib.sha256(f"{key}:{attempt}".encode()).digest()
    return longest * (0.5 + 0.5 * int.from_bytes(digest[:4], "big") / 2**32)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds that a response asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date.

    None without a readable header; 0 for a date in the past.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if seconds >= 0:
            return seconds
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


_RETRYABLE = frozenset({408, 409, 425, 429})


@dataclass(frozen=True)
class Reply:
    """A model's reply.

    Attributes:
        text: The message's content; empty where the response has none that can be used.
        problem: Why it has none.
        prompt_tokens: Tokens of the request, as the endpoint counted them; 0 where it does not say.
        answer_tokens: Tokens of the answer, likewise.
    """

    text: str
    problem: str | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0


class RetryableError(Exception):
    """Failure of a request that may succeed when repeated.

    Args:
        reason: What happened.
        limited: The endpoint asks all requests to slow down.
        wait: Seconds that it asks to wait; None where it does not say.
    """

    def __init__(self, reason: str, *, limited: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.limited = limited
        self.wait = wait


def parameters(settings: LLMSettings) -> dict[str, Any]:
    """Return the fields of a request that shape the answer, besides model, messages and schema."""
    fields = {
        "structured": settings.structured,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "max_tokens": settings.max_tokens,
    }
    return {name: value for name, value in fields.items() if value is not None} | dict(settings.extra)


def messages(question: Question[Any], settings: LLMSettings, content: str) -> list[dict[str, str]]:
    """Return the messages of a request about the items in `content`."""
    system = question.prompt
    if settings.structured != "json_schema":
        schema = json.dumps(question.schema, ensure_ascii=False)
        system += f"\n\nAnswer with one JSON object of this JSON schema and nothing else:\n{schema}"
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


class Client:
    """Asynchronous context manager that sends single requests.

    Args:
        endpoint: Address and key.
        settings: Model, form of the answer, time limit.
    """

    def __init__(self, endpoint: Endpoint, settings: LLMSettings) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._reached = False

    async def __aenter__(self) -> Self:
        import openai

        # `run.RequestRunner` repeats instead of openai, whose retries have a limit of their own on Retry-After, do not
        # hold back other requests after a 429, go on when the quota is used up, and wait for random times.
        self._client = openai.AsyncOpenAI(
            api_key=self._endpoint.key or "none",
            base_url=self._endpoint.address,
            timeout=self._settings.traffic.timeout,
            max_retries=0,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def complete(self, question: Question[Any], content: str) -> Reply:
        """Ask `question` about the items in `content`.

        Raises:
            RetryableError: A time-out, a broken connection, 429 or 5xx.
            ServiceError: A failure that lasts: nothing listens there, the key or the request is refused, the quota is
                used up.
        """
        import openai

        settings = self._settings
        fields = {name: value for name, value in parameters(settings).items() if name != "structured"}
        if settings.structured == "json_schema":
            schema = {"name": question.name, "strict": True, "schema": question.schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif settings.structured == "json_object":
            fields["response_format"] = {"type": "json_object"}
        sent: Any = messages(question, settings, content)
        try:
            async with asyncio.timeout(settings.traffic.timeout):
                response = await self._client.chat.completions.with_raw_response.create(
                    model=self._endpoint.model,
                    messages=sent,
                    extra_body=fields,
                )
                text = response.text
        except (TimeoutError, openai.APITimeoutError):
            raise RetryableError(f"no answer within {settings.traffic.timeout:g} s") from None
        except openai.APIConnectionError as error:
            # A refused connection is a wrong address at first, a restart of the server once it has answered.
            if not self._reached and _never_connected(error):
                raise self._unreachable(error.__cause__ or error) from None
            raise RetryableError(
                f"the connection broke: {self._endpoint.clean(str(error.__cause__ or error))}"
            ) from None
        except openai.APIStatusError as error:
            self._reached = True
            raise self._refusal(error) from None
        self._reached = True
        if self._endpoint.holds_key(text):
            return Reply("", "the response repeats the API key")
        return _read_response(text, self._endpoint)

    def _unreachable(self, cause: BaseException) -> ServiceError:
        return ServiceError(
            f"the language model's endpoint cannot be reached: {self._endpoint.clean(str(cause))}",
            where=self._endpoint.address,
            fix="start the server there, or correct `graph.build.llm.base_url`; answers already stored are kept",
        )

    def _refusal(self, error: openai.APIStatusError) -> RetryableError | ServiceError:
        status, reason = error.status_code, self._endpoint.clean(_message(error))
        exhausted = status == 429 and "insufficient_quota" in (
            getattr(error, "code", None),
            getattr(error, "type", None),
        )
        if (status in _RETRYABLE or status >= 500) and not exhausted:
            return RetryableError(
                f"HTTP {status}: {reason}", limited=status == 429, wait=retry_after(error.response.headers)
            )
        if status in (401, 403):
            source = self._endpoint.key_variable
            what = f"the endpoint refuses the API key (HTTP {status}): {reason}"
            fix = (
                "set `graph.build.llm.key_variable` to the environment variable that holds its key"
                if source is None
                else f"put a key that is valid there and may use {self._endpoint.model} into {source}"
            )
        elif exhausted:
            what = f"the account's quota is used up (HTTP {status}): {reason}"
            fix = "add credit or raise the limit there and run again: answers already stored are kept"
        else:
            what = f"the endpoint refuses the request (HTTP {status}): {reason}"
            fix = (
                "under `graph.build.llm` check `model` and `base_url` (most end in /v1); an endpoint that knows no "
                "JSON schema needs `structured: json_object` or `none`, some models `temperature: null` or "
                "`seed: null`, a model with a short context fewer `captions_per_request`"
            )
        return ServiceError(what, where=f"{self._endpoint.address}, model {self._endpoint.model}", fix=fix)


def _never_connected(error: openai.APIConnectionError) -> bool:
    # By name, because openai's releases use different HTTP libraries, each with its own class.
    return type(error.__cause__).__name__ == "ConnectError"


def _message(error: openai.APIStatusError) -> str:
    body: object = error.body
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body
    return body if isinstance(body, str) and body else error.response.text if body is None else str(body)


def _read_response(text: str, endpoint: Endpoint) -> Reply:
    try:
        document = json.loads(text)
        choice = document["choices"][0]
        message = choice["message"]
        content, refusal, reason = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return Reply("", f"the response is no chat completion: {endpoint.clean(text)[:80]}")
    usage = document.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    tokens = _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
    if isinstance(content, str) and content.strip():
        return Reply(content, None, *tokens)
    if isinstance(refusal, str) and refusal:
        return Reply("", f"the model refuses to answer: {endpoint.clean(refusal)}", *tokens)
    ended = f" (finish_reason: {endpoint.clean(reason)})" if isinstance(reason, str) else ""
    return Reply("", f"the answer is empty{ended}", *tokens)


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
