from __future__ import annotations

from typing import Any

import pytest

from pipeline.caption_graph.llm.replies import read_refusal, read_response
from pipeline.caption_graph.llm.triples import LLMExtractor
from pipeline.errors import ServiceError
from tests.caption_graph.llm.captions import make_captions
from tests.caption_graph.llm.conftest import MakeSession
from tests.caption_graph.llm.server import Endpoint, Fault, completion


def _read(content: Any, finish: str = "stop", **message: Any) -> Any:
    return read_response(completion(content, finish, **message), str)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("one", "one"),
        ([{"type": "text", "text": "on"}, {"type": "text", "text": "e"}], "one"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "one"}], "one"),
        ([{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "one"}], "one"),
        ([{"text": "one"}], "one"),
        (["on", "e"], "one"),
        ({"type": "text", "text": "one"}, "one"),
        ([{"type": "text", "text": {"value": "one", "annotations": []}}], "one"),
        ([None, 3, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "one"}], "one"),
    ],
)
def test_text_of_a_content(content: Any, text: str) -> None:
    reply = _read(content)
    assert (reply.text, reply.problem) == (text, None)


@pytest.mark.parametrize(
    ("content", "finish", "message", "problem", "fix"),
    [
        (None, "stop", {}, "the answer is empty (finish_reason: stop)", None),
        ("", "length", {}, "the answer is empty", "max_tokens"),
        ([], "stop", {}, "the answer is empty", None),
        (None, "length", {"reasoning_content": "hm"}, "holds reasoning and no answer", "max_tokens"),
        ("", "stop", {"reasoning": "hm"}, "holds reasoning and no answer", "reasoning off"),
        ([{"type": "thinking", "thinking": "hm"}], "length", {}, "holds reasoning and no answer", "max_tokens"),
        (None, "stop", {"refusal": "I will not."}, "refuses to answer: I will not.", "on_bad_caption: skip"),
        ([{"type": "refusal", "refusal": "No."}], "stop", {}, "refuses to answer: No.", "another model"),
        (None, "tool_calls", {"tool_calls": [{"id": "1"}]}, "calls a tool", "structured"),
        ([{"type": "image_url"}], "stop", {}, "holds no text, but parts of type image_url", "in text"),
    ],
)
def test_answers_without_text_say_what_came(
    content: Any, finish: str, message: dict[str, Any], problem: str, fix: str | None
) -> None:
    reply = _read(content, finish, **message)
    assert reply.text == ""
    assert problem in reply.problem
    assert (reply.fix is None) if fix is None else (fix in reply.fix)


@pytest.mark.parametrize(
    ("body", "problem", "fix"),
    [
        ("<html>login</html>", "no chat completion: <html>", "base_url"),
        ("", "no chat completion", "base_url"),
        ('{"object": "list", "data": []}', "no chat completion", "base_url"),
        ("[1]", "no chat completion", "base_url"),
        ('data: {"choices": []}\n\ndata: [DONE]', "no chat completion", "streams"),
        (
            '{"error": {"message": "Provider returned error", "code": 502}}',
            "an error: Provider returned error",
            "report",
        ),
        ('{"error": "busy"}', "an error: busy", "report"),
    ],
)
def test_bodies_that_are_no_completion_advise_what_helps(body: str, problem: str, fix: str) -> None:
    reply = read_response(body, str)
    assert problem in str(reply.problem)
    assert fix in str(reply.fix)
    assert "run again" not in str(reply.fix)


def test_byte_order_mark_before_the_response_is_passed_over() -> None:
    assert read_response("\ufeff" + completion("one"), str).text == "one"


def test_content_in_parts_is_read_by_a_run(make_session: MakeSession, endpoint: Endpoint) -> None:
    def content(right: str) -> Any:
        return [
            {"type": "thinking", "thinking": "{"},
            {"type": "text", "text": right[:9]},
            {"type": "text", "text": right[9:]},
        ]

    endpoint.fault = lambda items, seen: Fault(content=content)
    assert len(LLMExtractor(make_session()).extract(make_captions(3))) == 3


@pytest.mark.parametrize(
    ("fault", "what", "fix"),
    [
        (Fault(body="<html>login</html>"), "no chat completion: <html>", "base_url"),
        (Fault(body=completion("", "length")), "the answer is empty", "max_tokens"),
        (Fault(content='{"answers": [{"id"', finish="length"), "cut off", "max_tokens"),
        (Fault(body=completion(None, refusal="No.")), "refuses to answer", "another model"),
        (Fault(content="No."), "not JSON", "run again"),
        (Fault(status=503), "HTTP 503", "log or status page"),
        (Fault(drop=True), "the connection broke", "server's log"),
        (Fault(delay=0.6), "no answer within 0.3 s", "traffic.timeout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_failure_has_its_own_advice(
    make_session: MakeSession, endpoint: Endpoint, fault: Fault, what: str, fix: str
) -> None:
    endpoint.fault = lambda items, seen: fault
    pace = {"retries": 1, "backoff": 0.0, "timeout": 0.3 if fault.delay else 5.0}
    with pytest.raises(ServiceError) as caught:
        LLMExtractor(make_session(rounds=0, traffic=pace)).extract(make_captions(3))
    assert what in caught.value.what
    assert fix in str(caught.value.fix)


@pytest.mark.parametrize(
    ("status", "codes", "reason", "is_json", "fix"),
    [
        (404, {"model_not_found"}, "The model `m` does not exist", True, "graph.build.llm.model"),
        (404, set(), 'model "m" not found, try pulling it first', True, "graph.build.llm.model"),
        (400, set(), "Unknown model: m", True, "graph.build.llm.model"),
        (404, set(), "404 page not found", False, "most end in /v1"),
        (404, set(), "Not Found", True, "most end in /v1"),
        (405, set(), "<html>", False, "most end in /v1"),
        (400, set(), "'response_format.type' must be 'text'", True, "structured"),
        (400, set(), "Unsupported value: 'temperature'", True, "temperature: null"),
        (400, set(), "unknown field seed", True, "seed: null"),
        (400, set(), "Unsupported parameter: 'max_tokens'", True, "max_completion_tokens"),
        (400, set(), "maximum context length is 8192 tokens", True, "captions_per_request"),
        (413, set(), "Payload Too Large", False, "captions_per_request"),
        (407, set(), "Proxy Authentication Required", False, "HTTPS_PROXY"),
        (401, set(), "no", True, "into KEY"),
        (402, set(), "Insufficient Balance", True, "add credit"),
        (429, {"insufficient_quota"}, "m", True, "add credit"),
        (418, set(), "teapot", True, "check `model` and `base_url`"),
    ],
)
def test_refusals_point_to_what_they_name(status: int, codes: set[str], reason: str, is_json: bool, fix: str) -> None:
    refusal = read_refusal(status, frozenset(codes), reason, is_json=is_json, model="m", variable="KEY")
    assert fix in refusal.fix
    assert not refusal.passes
    assert reason in refusal.what


@pytest.mark.parametrize(("status", "limited"), [(429, True), (408, False), (500, False), (529, False)])
def test_refusals_that_may_pass(status: int, limited: bool) -> None:
    refusal = read_refusal(status, frozenset(), "busy", is_json=True, model="m", variable=None)
    assert (refusal.passes, refusal.limited) == (True, limited)
    assert "requests_per_minute" in refusal.fix or not limited


def test_refused_key_where_none_is_sent() -> None:
    assert "key_variable" in read_refusal(401, frozenset(), "no", is_json=True, model="m", variable=None).fix
