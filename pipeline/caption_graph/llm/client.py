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
from urllib.parse import urlsplit

from pipeline.caption_graph.llm.connection import check_headers, connection_advice, find_proxy, tls_context
from pipeline.caption_graph.llm.questions import Question
from pipeline.caption_graph.llm.replies import Reply, read_refusal, read_response
from pipeline.caption_graph.settings import LLMSettings, TrafficSettings, checked_address
from pipeline.errors import ServiceError, SettingsError, first_line

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


class RetryableError(Exception):
    """Failure of a request that may succeed when repeated.

    Args:
        reason: What happened.
        fix: What to do if it lasts.
        limited: The endpoint asks all requests to slow down.
        wait: Seconds that it asks to wait; None where it does not say.
    """

    def __init__(self, reason: str, fix: str = "", *, limited: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.fix = fix
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

        address = self._endpoint.address
        check_headers()
        certificates = tls_context(address)
        self._proxy = find_proxy(address)
        try:
            # What the environment says has been read above; the library would fail at variables for other addresses.
            transport = openai.DefaultAsyncHttpxClient(
                verify=certificates,
                proxy=None if self._proxy is None else self._proxy.url,
                trust_env=False,
                timeout=self._settings.traffic.timeout,
            )
            # `run.RequestRunner` repeats instead of openai, whose retries have a limit of their own on Retry-After, do
            # not hold back other requests after a 429, go on when the quota is used up, and wait for random times.
            self._client = openai.AsyncOpenAI(
                api_key=self._endpoint.key or "none",
                base_url=address,
                timeout=self._settings.traffic.timeout,
                max_retries=0,
                http_client=transport,
            )
        # The libraries read further variables and files of the system; their errors have no common class.
        except Exception as error:
            raise ServiceError(
                f"no connection to the endpoint can be prepared: {self._endpoint.clean(first_line(error))}",
                where=address,
                fix="check `graph.build.llm.base_url`, and the environment variables that begin with OPENAI_ or SSL_",
            ) from error
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
            raise self._late() from None
        except openai.APIConnectionError as error:
            raise self._disconnected(error) from None
        except openai.APIStatusError as error:
            self._reached = True
            raise self._refused(error) from None
        self._reached = True
        if self._endpoint.holds_key(text):
            fix = f"take another endpoint, and a new key: {self._endpoint.address} passes it on"
            return Reply("", "the response repeats the API key", fix)
        return read_response(text, self._endpoint.clean)

    def _late(self) -> RetryableError:
        seconds = f"{self._settings.traffic.timeout:g} s"
        slow = "raise `graph.build.llm.traffic.timeout`, or lower `concurrency` there or `captions_per_request`"
        if self._reached:
            return RetryableError(f"no answer within {seconds}", f"{slow}; answers so far are stored")
        through = "" if self._proxy is None else f" and the proxy {self._proxy}"
        return RetryableError(
            f"no answer within {seconds}",
            f"check `graph.build.llm.base_url`{through}; where the model is slow, {slow}",
        )

    def _disconnected(self, error: openai.APIConnectionError) -> RetryableError | ServiceError:
        # A refused connection is a wrong address at first, a restart of the server once it has answered.
        advice = connection_advice(error, self._endpoint.address, self._proxy)
        if advice is not None and not self._reached:
            what, fix = advice
            return ServiceError(self._endpoint.clean(what), where=self._endpoint.address, fix=fix)
        return RetryableError(
            f"the connection broke: {self._endpoint.clean(str(error.__cause__ or error))}",
            "see the server's log, or lower `graph.build.llm.traffic.concurrency`, and run again: answers are stored",
        )

    def _refused(self, error: openai.APIStatusError) -> RetryableError | ServiceError:
        endpoint = self._endpoint
        values = (getattr(error, "code", None), getattr(error, "type", None))
        refusal = read_refusal(
            error.status_code,
            frozenset(value for value in values if isinstance(value, str)),
            endpoint.clean(_message(error)),
            is_json=isinstance(error.body, Mapping),
            model=endpoint.model,
            variable=endpoint.key_variable,
        )
        fix = refusal.fix
        if self._proxy is not None and not isinstance(error.body, Mapping):
            host = urlsplit(endpoint.address).hostname
            fix += f"; it may be the proxy {self._proxy} that answers: to go without it, add {host} to NO_PROXY"
        if refusal.passes:
            wait = retry_after(error.response.headers)
            return RetryableError(refusal.what, fix, limited=refusal.limited, wait=wait)
        return ServiceError(refusal.what, where=f"{endpoint.address}, model {endpoint.model}", fix=fix)


def _message(error: openai.APIStatusError) -> str:
    body: object = error.body
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body
    return body if isinstance(body, str) and body else error.response.text if body is None else str(body)
