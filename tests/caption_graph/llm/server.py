"""An OpenAI-compatible endpoint on this machine: answers from an oracle, checks the protocol, fails on demand."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Oracle = Callable[[Mapping[str, Any]], dict[str, Any]]
"""From one item, as the model is shown it, to the fields of its answer besides `id`."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one response; fields that are None stay right.

    Attributes:
        status: HTTP status instead of 200, with an error body.
        headers: Further headers.
        error: The error body's `error` object.
        body: The whole HTTP body.
        content: The message's content, or a function from the right one.
        finish: The choice's `finish_reason`.
        delay: Seconds before anything is sent.
        drip: Seconds between one byte of the body and the next.
        drop: Close the connection without a response.
        kind: Name under which the log counts it.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=lambda: {"message": "injected"})
    body: str | None = None
    content: str | Callable[[str], str | None] | None = field(default_factory=lambda: lambda right: right)
    finish: str = "stop"
    delay: float = 0.0
    drip: float = 0.0
    drop: bool = False
    kind: str = "fault"


@dataclass(frozen=True)
class Exchange:
    """One request and what came of it.

    Attributes:
        items: The items asked, as shown to the model.
        body: The whole request.
        fault: The fault injected; None for a right answer.
        start: Time of arrival on the monotonic clock.
    """

    items: tuple[Mapping[str, Any], ...]
    body: Mapping[str, Any]
    fault: Fault | None
    start: float


class Endpoint:
    """The server; a context manager.

    Args:
        oracle: Right answers.
        fault: Fault for a request (its items, how often the same request came before); None: no fault.
        key: The only API key it accepts; None: any.
    """

    def __init__(
        self,
        oracle: Oracle,
        fault: Callable[[tuple[Mapping[str, Any], ...], int], Fault | None] = lambda items, seen: None,
        key: str | None = None,
    ) -> None:
        self.oracle = oracle
        self.fault = fault
        self.key = key
        self.log: list[Exchange] = []
        self.under_way = 0
        self.most_under_way = 0
        self.after = lambda: None
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def answered(self) -> list[Exchange]:
        """Exchanges that got the right answer, in order."""
        return [exchange for exchange in self.log if exchange.fault is None]

    def kinds(self) -> Counter[str]:
        return Counter(exchange.fault.kind for exchange in self.log if exchange.fault is not None)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the test's output clean."""

            def handle(self) -> None:
                with contextlib.suppress(ConnectionResetError):  # the client was killed
                    super().handle()

            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["content-length"]))
                if len(sent) < int(self.headers["content-length"]):  # the client was killed as it sent
                    self.close_connection = True
                    return
                body = json.loads(sent)
                with endpoint._lock:
                    endpoint.under_way += 1
                    endpoint.most_under_way = max(endpoint.most_under_way, endpoint.under_way)
                try:
                    self._respond(body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    with endpoint._lock:
                        endpoint.under_way -= 1
                endpoint.after()

            def _respond(self, body: dict[str, Any]) -> None:
                start = time.monotonic()
                given = self.headers.get("authorization", "").removeprefix("Bearer ")
                if endpoint.key is not None and given != endpoint.key:
                    error = {"message": f"Incorrect API key provided: {given}.", "code": "invalid_api_key"}
                    self._send(401, json.dumps({"error": error}))
                    return
                if complaint := protocol_complaint(self.path, body):
                    self._send(400, json.dumps({"error": {"message": complaint}}))
                    return
                (items,) = json.loads(body["messages"][1]["content"]).values()
                with endpoint._lock:
                    seen = endpoint._seen[body["messages"][1]["content"]]
                    endpoint._seen[body["messages"][1]["content"]] += 1
                fault = endpoint.fault(tuple(items), seen)
                text = json.dumps({"answers": [{"id": item["id"], **endpoint.oracle(item)} for item in items]})
                wrong = fault or Fault()
                if wrong.delay:
                    time.sleep(wrong.delay)
                # Logged before it is sent, so that a client that has its answers finds the log complete.
                endpoint.log.append(Exchange(tuple(items), body, fault, start))
                if wrong.drop:
                    self.close_connection = True
                    return
                if wrong.status is not None:
                    response = json.dumps({"error": dict(wrong.error)})
                elif wrong.body is not None:
                    response = wrong.body
                else:
                    content = wrong.content(text) if callable(wrong.content) else wrong.content
                    response = completion(content, wrong.finish)
                self._send(wrong.status or 200, response, wrong.headers, wrong.drip)

            def _send(
                self, status: int, body: str, headers: Mapping[str, str] | None = None, drip: float = 0.0
            ) -> None:
                data = body.encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                while drip and data:
                    self.wfile.write(data[:1])
                    data = data[1:]
                    time.sleep(drip)
                self.wfile.write(data)

        return Handler


def completion(content: str | None, finish: str = "stop", **message: Any) -> str:
    """A chat completion with one choice."""
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": "test-model",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": finish,
                    "message": {"role": "assistant", "content": content, **message},
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
    )


def protocol_complaint(path: str, body: Mapping[str, Any]) -> str | None:
    """What the real endpoint would refuse about a request; None for nothing."""
    if path != "/v1/chat/completions":
        return f"no such path: {path}"
    if [message["role"] for message in body["messages"]] != ["system", "user"]:
        return "messages must be system and user"
    form = body.get("response_format", {"type": "text"})
    if form["type"] == "json_object" and "JSON" not in body["messages"][0]["content"]:
        return "'messages' must contain the word 'json' to use 'response_format' of type 'json_object'"
    if form["type"] == "json_schema":
        schema = form["json_schema"]
        if not schema["strict"] or not schema["name"].isidentifier():
            return "json_schema needs a name and strict"
        return schema_complaint(schema["schema"])
    return None


def schema_complaint(schema: Any) -> str | None:
    """What strict structured output refuses about a schema: open objects, optional fields, references."""
    if isinstance(schema, list):
        return next(filter(None, map(schema_complaint, schema)), None)
    if not isinstance(schema, dict):
        return None
    if "$ref" in schema or "$defs" in schema:
        return "references are not supported"
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return "additionalProperties must be false"
        if set(schema.get("required", ())) != set(schema["properties"]):
            return "all fields must be required"
        return schema_complaint(list(schema["properties"].values()))
    return schema_complaint(list(schema.values()))
