"""One request to an OpenAI-compatible endpoint, and what its failure means: try again, mend the answer, or stop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipeline.errors import ServiceError
from pipeline.language.llm.endpoint import Endpoint
from pipeline.language.llm.pace import retry_after
from pipeline.language.llm.questions import Question
from pipeline.language.llm.settings import LLMSettings

if TYPE_CHECKING:
    import openai

_AGAIN = frozenset({408, 409, 425, 429})


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Attributes:
        text: The message's content; empty where the response holds none that can be used.
        problem: Why it holds none.
        prompt_tokens: Tokens of the request, as the endpoint counted them; 0 where it does not say.
        answer_tokens: Tokens of the answer, likewise.
    """

    text: str
    problem: str | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0


class Again(Exception):  # noqa: N818 - a turn of events, not an error of the program
    """A failure that may pass.

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
    chosen = {
        "structured": settings.structured,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "max_tokens": settings.max_tokens,
    }
    return {name: value for name, value in chosen.items() if value is not None} | dict(settings.extra)


def messages(question: Question[Any], settings: LLMSettings, content: str) -> list[dict[str, str]]:
    """Return the messages of a request about the items in `content`."""
    system = question.prompt
    if settings.structured != "json_schema":
        schema = json.dumps(question.schema, ensure_ascii=False)
        system += f"\n\nAnswer with one JSON object of this JSON schema and nothing else:\n{schema}"
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


class Client:
    """Sends single requests; repeats nothing by itself. An asynchronous context manager.

    Args:
        endpoint: Where to, and with what key.
        settings: Model, form of the answer, time limit.
    """

    def __init__(self, endpoint: Endpoint, settings: LLMSettings) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._reached = False

    async def __aenter__(self) -> Self:
        import openai

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
            Again: A time-out, a broken connection, 429 or 5xx.
            ServiceError: What repeating does not mend: nothing listens there, the key is refused, the quota is used
                up, the request is refused.
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
            raise Again(f"no answer within {settings.traffic.timeout:g} s") from None
        except openai.APIConnectionError as error:
            # Once the endpoint has answered, a refused connection is a restart or a short break; before, a mistake.
            if not self._reached and _never_connected(error):
                raise self._unreachable(error.__cause__ or error) from None
            raise Again(f"the connection broke: {self._endpoint.clean(str(error.__cause__ or error))}") from None
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

    def _refusal(self, error: openai.APIStatusError) -> Again | ServiceError:
        status, said = error.status_code, self._endpoint.clean(_message(error))
        spent = status == 429 and "insufficient_quota" in (getattr(error, "code", None), getattr(error, "type", None))
        if (status in _AGAIN or status >= 500) and not spent:
            return Again(f"HTTP {status}: {said}", limited=status == 429, wait=retry_after(error.response.headers))
        if status in (401, 403):
            source = self._endpoint.key_variable
            what = f"the endpoint refuses the API key (HTTP {status}): {said}"
            fix = (
                "set `graph.build.llm.key_variable` to the environment variable that holds its key"
                if source is None
                else f"put a key that is valid there and may use {self._endpoint.model} into {source}"
            )
        elif spent:
            what = f"the account's quota is used up (HTTP {status}): {said}"
            fix = "add credit or raise the limit there and run again: answers already stored are kept"
        else:
            what = f"the endpoint refuses the request (HTTP {status}): {said}"
            fix = (
                "under `graph.build.llm` check `model` and `base_url` (most end in /v1); an endpoint that knows no "
                "JSON schema needs `structured: json_object` or `none`, some models `temperature: null` or "
                "`seed: null`, a model with a short context fewer `captions_per_request`"
            )
        return ServiceError(what, where=f"{self._endpoint.address}, model {self._endpoint.model}", fix=fix)


def _never_connected(error: openai.APIConnectionError) -> bool:
    # By name: the client's releases differ in the HTTP library beneath them, and each has its own class.
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
    spent = _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
    if isinstance(content, str) and content.strip():
        return Reply(content, None, *spent)
    if isinstance(refusal, str) and refusal:
        return Reply("", f"the model refuses to answer: {endpoint.clean(refusal)}", *spent)
    ended = f" (finish_reason: {endpoint.clean(reason)})" if isinstance(reason, str) else ""
    return Reply("", f"the answer is empty{ended}", *spent)


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
