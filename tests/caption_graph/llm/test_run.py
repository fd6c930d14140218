"""Runs against an endpoint that fails in transport and content, and runs that are killed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks._graph_captions import LEVIR, present, real_captions
from pipeline.caption_graph.llm.client import Client, Pace, Reply
from pipeline.caption_graph.llm.questions import Rejected
from pipeline.caption_graph.llm.run import tokens
from pipeline.caption_graph.llm.triples import LLMExtractor, Statement, TripleAnswer, check_triples
from pipeline.caption_graph.triples.records import Caption, Triple, write_triples
from pipeline.caption_graph.triples.rules import RulesExtractor
from pipeline.datasets.no_change import implies_change
from pipeline.errors import ServiceError, SettingsError
from tests.caption_graph.llm.captions import make_captions, oracle
from tests.caption_graph.llm.client_process import CONCURRENCY, faulty_session
from tests.caption_graph.llm.conftest import KEY, MakeSession
from tests.caption_graph.llm.server import Endpoint, Exchange, Fault, Oracle, completion


def test_tokens_are_a_quarter_of_the_bytes() -> None:
    assert [tokens(text) for text in ("", "a", "four", "fiver", "ключ")] == [0, 1, 1, 2, 2]


def test_dry_run_sends_nothing_and_needs_no_key(
    make_session: MakeSession, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    captions = [*make_captions(12), *make_captions(3), Caption(pair="z", sentence=0, text="no change has occurred .")]
    made = LLMExtractor(make_session(prices={"prompt": 2.0, "answer": 10.0, "currency": "EUR"})).estimate(captions)
    assert (made.items, made.stored, made.requests, made.currency) == (12, 0, 3, "EUR")
    assert made.cost == pytest.approx((2 * made.prompt_tokens + 10 * made.answer_tokens) / 1e6)
    assert endpoint.log == []


def test_estimate_is_near_what_is_sent(make_session: MakeSession, endpoint: Endpoint) -> None:
    extractor = LLMExtractor(make_session())
    made = extractor.estimate(make_captions(12))
    extractor.extract(make_captions(12))
    sent = sum(len(message["content"]) for exchange in endpoint.log for message in exchange.body["messages"]) + sum(
        len(json.dumps(exchange.body["response_format"]["json_schema"]["schema"])) for exchange in endpoint.log
    )
    assert made.requests == len(endpoint.log)
    assert made.prompt_tokens == pytest.approx(sent / 4, rel=0.01)
    answered = sum(len(json.dumps(endpoint.oracle(item))) for exchange in endpoint.log for item in exchange.items)
    # These captions make one triple each; the guess is one and a half.
    assert answered / 4 <= made.answer_tokens <= 2.5 * answered / 4


def test_estimate_leaves_out_what_is_stored(make_session: MakeSession) -> None:
    extractor = LLMExtractor(make_session())
    extractor.extract(make_captions(5))
    made = extractor.estimate(make_captions(12))
    assert (made.items, made.stored, made.requests, made.cost) == (7, 5, 2, None)
    done = extractor.estimate(make_captions(5))
    assert (done.requests, done.prompt_tokens, done.answer_tokens) == (0, 0, 0)


def test_model_must_be_named(make_session: MakeSession) -> None:
    with pytest.raises(SettingsError, match="no language model is named"):
        LLMExtractor(make_session(model=None)).estimate(make_captions(1))


CAPTIONS = make_captions(10)  # two requests of five
Items = tuple[Mapping[str, Any], ...]


def first(fault: Fault, times: int = 1) -> Callable[[Items, int], Fault | None]:
    """The fault at the first `times` arrivals of each request."""
    return lambda items, seen: fault if seen < times else None


def at_first_request(fault: Fault) -> Callable[[Items, int], Fault | None]:
    """The fault until an item comes back with a problem."""
    return lambda items, seen: None if any("problem" in item for item in items) else fault


def change(edit: Callable[[list[dict[str, Any]]], object]) -> Fault:
    """Right content whose list of answers is edited in place."""

    def content(right: str) -> str:
        document = json.loads(right)
        edit(document["answers"])
        return json.dumps(document)

    return Fault(content=content)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429),
        Fault(status=429, headers={"retry-after": "0.01"}),
        Fault(status=408),
        Fault(status=500),
        Fault(status=503, error={}),
        Fault(status=529, headers={"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}),
        Fault(drop=True),
    ],
)
def test_passing_failures_are_repeated(make_session: MakeSession, endpoint: Endpoint, fault: Fault) -> None:
    endpoint.fault = first(fault, 2)
    extractor = LLMExtractor(make_session())
    assert len(extractor.extract(CAPTIONS)) == 10
    assert extractor.usage.requests == len(endpoint.log) == 6
    # A failure of the transport is no mistake of the model's: the same request is sent again.
    assert len({exchange.body["messages"][1]["content"] for exchange in endpoint.log}) == 2


@pytest.mark.parametrize("fault", [Fault(delay=0.9), Fault(drip=0.02)], ids=["silent", "dripping"])
def test_timeout_is_repeated(make_session: MakeSession, endpoint: Endpoint, fault: Fault) -> None:
    endpoint.fault = first(fault)
    extractor = LLMExtractor(make_session(traffic={"timeout": 0.5}))
    assert len(extractor.extract(CAPTIONS)) == 10
    assert extractor.usage.requests >= 4  # more where the machine is busy


def test_retry_after_is_kept_by_all_requests(make_session: MakeSession, endpoint: Endpoint) -> None:
    endpoint.fault = lambda items, seen: (
        Fault(status=429, headers={"retry-after": "0.5"}) if len(endpoint.log) == 0 else None
    )
    LLMExtractor(make_session(traffic={"concurrency": 1}, captions_per_request=2)).extract(CAPTIONS)
    starts = [exchange.start for exchange in endpoint.log]
    assert starts[1] - starts[0] >= 0.5
    assert starts[-1] - starts[1] < 1.5


def test_wait_that_is_too_long_stops(make_session: MakeSession, endpoint: Endpoint) -> None:
    endpoint.fault = first(Fault(status=429, headers={"retry-after": "3600"}))
    with pytest.raises(ServiceError, match=r"asks to wait 3600 s, more than wait_limit"):
        LLMExtractor(make_session()).extract(CAPTIONS)


def test_storm_of_429_stops_and_keeps_what_was_answered(make_session: MakeSession, endpoint: Endpoint) -> None:
    endpoint.fault = lambda items, seen: Fault(status=429) if len(endpoint.answered) >= 3 else None
    captions = make_captions(50)
    with pytest.raises(ServiceError, match=r"gave no answer in 3 attempts: HTTP 429: injected") as caught:
        LLMExtractor(make_session(traffic={"retries": 2})).extract(captions)
    assert "requests_per_minute" in str(caught.value.fix)
    answered = len(endpoint.answered)
    endpoint.fault = lambda items, seen: None
    assert len(LLMExtractor(make_session()).extract(captions)) == 50
    assert len(endpoint.answered) == 10
    assert answered >= 3


def test_lasting_429_is_no_fault_of_the_captions(make_session: MakeSession, endpoint: Endpoint) -> None:
    endpoint.fault = lambda items, seen: Fault(status=429)
    with pytest.raises(ServiceError, match=r"gave no answer in 3 attempts"):
        LLMExtractor(make_session("skip", traffic={"retries": 2})).extract(make_captions(5))
    assert len(endpoint.log) == 3


@pytest.mark.parametrize("on_bad_item", ["fatal", "skip"])
@pytest.mark.parametrize(("count", "rounds"), [(5, 2), (50, 2), (5, 0)])
def test_lasting_500s_stop(
    make_session: MakeSession, endpoint: Endpoint, on_bad_item: str, count: int, rounds: int
) -> None:
    endpoint.fault = lambda items, seen: Fault(status=500)
    with pytest.raises(ServiceError, match=r"gave no answer in 2 attempts: HTTP 500: injected"):
        LLMExtractor(make_session(on_bad_item, rounds=rounds, traffic={"retries": 1})).extract(make_captions(count))
    assert len(endpoint.log) <= 2 * (3 + 4)  # three requests given up, those under way with them


def test_caption_that_the_endpoint_chokes_on_spoils_only_itself(make_session: MakeSession, endpoint: Endpoint) -> None:
    endpoint.fault = lambda items, seen: (
        Fault(status=500) if any(item["caption"] == CAPTIONS[3].text for item in items) else None
    )
    extractor = LLMExtractor(make_session("skip", traffic={"retries": 1}))
    assert len(extractor.extract(CAPTIONS)) == 9
    assert extractor.failures == [(CAPTIONS[3], "HTTP 500: injected")]
    assert not any("problem" in item for exchange in endpoint.log for item in exchange.items)


def test_nothing_listens(make_session: MakeSession) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        start = time.monotonic()
        with pytest.raises(ServiceError, match="cannot be reached") as caught:
            LLMExtractor(make_session(base_url=address, traffic={"backoff": 60.0, "backoff_limit": 60.0})).extract(
                CAPTIONS
            )
    assert time.monotonic() - start < 25  # an error at once, not after the back-off
    assert caught.value.where == address
    assert "start the server" in str(caught.value.fix)


def test_missing_key_sends_nothing(
    make_session: MakeSession, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ServiceError, match="no API key"):
        LLMExtractor(make_session()).extract(CAPTIONS)
    assert endpoint.log == []


def test_wrong_key_stops_at_once_with_the_cure(
    make_session: MakeSession, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-123")
    extractor = LLMExtractor(make_session(traffic={"concurrency": 1}))
    with pytest.raises(
        ServiceError, match=r"refuses the API key \(HTTP 401\): Incorrect API key provided: \*\*\*"
    ) as caught:
        extractor.extract(CAPTIONS)
    assert extractor.usage.requests == 0  # that of the last extraction that ended
    assert "OPENAI_API_KEY" in str(caught.value.fix)
    assert "sk-wrong-123" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "what", "fix"),
    [
        (Fault(status=401), r"refuses the API key \(HTTP 401\)", "OPENAI_API_KEY"),
        (Fault(status=403), r"refuses the API key \(HTTP 403\)", "may use test-model"),
        (
            Fault(status=404, error={"message": "no such model x"}),
            r"HTTP 404\): no such model x",
            "graph.build.llm.model",
        ),
        (Fault(status=400, error={"message": "response_format"}), r"HTTP 400\): response_format", "json_object"),
        (Fault(status=429, error={"message": "m", "code": "insufficient_quota"}), "quota is used up", "add credit"),
        (Fault(status=429, error={"message": "m", "type": "insufficient_quota"}), "quota is used up", "add credit"),
    ],
)
def test_lasting_refusals_stop_at_once(
    make_session: MakeSession, endpoint: Endpoint, fault: Fault, what: str, fix: str
) -> None:
    endpoint.fault = lambda items, seen: fault
    with pytest.raises(ServiceError, match=what) as caught:
        LLMExtractor(make_session("skip", traffic={"concurrency": 1})).extract(make_captions(30))
    assert fix in str(caught.value.fix)
    assert len(endpoint.log) == 1


def test_requests_under_way_are_kept_when_another_stops_the_run(make_session: MakeSession, endpoint: Endpoint) -> None:
    def fault(items: Items, seen: int) -> Fault | None:
        if items[0]["caption"] == CAPTIONS[0].text:
            return Fault(status=403)
        time.sleep(0.3)
        return None

    endpoint.fault = fault
    with pytest.raises(ServiceError, match="403"):
        LLMExtractor(make_session()).extract(CAPTIONS)
    endpoint.fault = lambda items, seen: None
    extractor = LLMExtractor(make_session())
    assert len(extractor.extract(CAPTIONS)) == 10
    assert extractor.usage.stored == 5


WHOLE = {
    "empty": Fault(content=""),
    "blank": Fault(content=" \n "),
    "null": Fault(content=None),
    "refusal": Fault(body=completion(None, refusal="I will not.")),
    "not JSON": Fault(content="There are two houses."),
    "cut at once": Fault(content='{"answers": [{"id"', finish="length"),
    "other schema": Fault(content='{"triples": [["house", "appear", "scene"]]}'),
    "list": Fault(content="[]"),
    "no answers": Fault(content='{"answers": []}'),
    "other captions": change(lambda answers: [answer.update(id=answer["id"] + 1) for answer in answers]),
    "no chat completion": Fault(body='{"object": "list", "data": []}'),
    "web page": Fault(body="<html>Welcome</html>"),
    "no choices": Fault(body='{"choices": []}'),
    "wrong kinds": Fault(body='{"choices": [{"message": [1]}], "usage": 3}'),
    "JSON null": Fault(body="null"),
}


@pytest.mark.parametrize("fault", WHOLE.values(), ids=WHOLE.keys())
def test_unusable_answer_is_asked_again_in_smaller_requests(
    make_session: MakeSession, endpoint: Endpoint, fault: Fault
) -> None:
    endpoint.fault = at_first_request(fault)
    assert len(LLMExtractor(make_session()).extract(CAPTIONS)) == 10
    assert sorted(len(exchange.items) for exchange in endpoint.log) == [1, 1, 2, 2, 2, 2, 5, 5]
    assert all("problem" in item for exchange in endpoint.answered for item in exchange.items)


PARTLY = {
    "left out": (change(lambda answers: answers.pop(2)), "left out"),
    "twice": (change(lambda answers: answers.append(answers[2])), "answered 2 times"),
    "other form": (change(lambda answers: answers[2].update(triples="house")), "not of the schema"),
    "invented entity": (
        change(lambda answers: answers[2]["triples"][0].update(tail="volcano")),
        "the entity 'volcano' does not occur",
    ),
    "invented evidence": (
        change(lambda answers: answers[2]["triples"][0].update(evidence="a volcano erupts")),
        "the evidence 'a volcano erupts' is no piece of the caption",
    ),
}


@pytest.mark.parametrize(("fault", "reason"), PARTLY.values(), ids=PARTLY.keys())
def test_only_the_captions_concerned_are_asked_again(
    make_session: MakeSession, endpoint: Endpoint, fault: Fault, reason: str
) -> None:
    endpoint.fault = at_first_request(fault)
    assert len(LLMExtractor(make_session()).extract(CAPTIONS)) == 10
    again = [exchange.items for exchange in endpoint.answered]
    assert sorted(item["caption"] for items in again for item in items) == sorted(CAPTIONS[n].text for n in (2, 7))
    assert all(reason in item["problem"] for items in again for item in items)


def test_truncated_answer_costs_only_what_it_lacks(make_session: MakeSession, endpoint: Endpoint) -> None:
    endpoint.fault = at_first_request(Fault(content=lambda right: right[: right.index('{"id": 4')], finish="length"))
    assert len(LLMExtractor(make_session()).extract(CAPTIONS)) == 10
    assert sorted(len(exchange.items) for exchange in endpoint.answered) == [2, 2]


def test_rounds_are_bounded_and_failures_named(make_session: MakeSession, endpoint: Endpoint) -> None:
    endpoint.oracle = lambda item: {"triples": 1} if "villa" in item["caption"] else oracle(item)
    for rounds, requests in ((0, 2), (1, 1), (3, 1 + 3)):
        before = len(endpoint.log)
        with pytest.raises(ServiceError, match=r"1 of 10 distinct captions got no usable answer; the first") as caught:
            LLMExtractor(make_session(rounds=rounds)).extract(CAPTIONS)
        # After the first run everything but one caption is stored, so only that one is asked again.
        assert len(endpoint.log) - before == (requests if rounds != 1 else 2)
    assert CAPTIONS[2].text in str(caught.value)
    assert "on_bad_caption: skip" in str(caught.value.fix)


def test_model_that_never_answers_well_is_given_up(make_session: MakeSession, endpoint: Endpoint) -> None:
    endpoint.fault = lambda items, seen: Fault(body="<html>")
    with pytest.raises(
        ServiceError, match=r"the first \d+ replies held no usable answer; the last: the response is no"
    ):
        LLMExtractor(make_session("skip")).extract(make_captions(200))
    assert 10 <= len(endpoint.log) <= 14


def test_requests_are_shared_out_over_slots(make_session: MakeSession, endpoint: Endpoint) -> None:
    endpoint.fault = lambda items, seen: time.sleep(0.1)
    LLMExtractor(make_session(traffic={"concurrency": 3})).extract(make_captions(60))
    assert endpoint.most_under_way == 3


def test_requests_keep_to_the_rate(make_session: MakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    booked: list[float] = []
    sent: list[float] = []
    book, complete = Pace.book, Client.complete

    def note_start(pace: Pace, now: float, tokens: int) -> float:
        booked.append(book(pace, now, tokens))
        return booked[-1]

    async def note_request(client: Client, *request: Any) -> Reply:
        sent.append(asyncio.get_running_loop().time())
        return await complete(client, *request)

    monkeypatch.setattr(Pace, "book", note_start)
    monkeypatch.setattr(Client, "complete", note_request)
    LLMExtractor(make_session(traffic={"requests_per_minute": 600})).extract(make_captions(30))
    # Measured on the client's own clock, where they start: a busy machine may delay arrivals, and a start, at will.
    assert len(booked) == len(sent) == 6
    assert all(later >= earlier + 60 / 600 for earlier, later in pairwise(booked))
    assert all(start >= free for free, start in zip(booked, sorted(sent), strict=True))


def test_progress_counts_captions(make_session: MakeSession, endpoint: Endpoint) -> None:
    from dataclasses import replace

    seen: list[tuple[int, int]] = []
    session = replace(make_session(), progress=lambda done, total: seen.append((done, total)))
    LLMExtractor(session).extract(CAPTIONS)
    assert seen == [(5, 10), (10, 10)]


def test_result_does_not_depend_on_the_order_of_arrival(
    make_session: MakeSession, endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.fault = lambda items, seen: time.sleep(0.3 if CAPTIONS[0].text in items[0]["caption"] else 0)
    triples = LLMExtractor(make_session()).extract(CAPTIONS)
    assert [triple.pair for triple in triples] == [caption.pair for caption in CAPTIONS]


def test_response_that_repeats_the_key_is_not_used(
    make_session: MakeSession, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    endpoint.key = None
    monkeypatch.setenv("OPENAI_API_KEY", CAPTIONS[2].text.split()[2])
    extractor = LLMExtractor(make_session("skip"))
    extractor.extract(CAPTIONS[:5])
    assert [(caption, reason) for caption, reason in extractor.failures] == [
        (CAPTIONS[2], "the response repeats the API key")
    ]


def test_key_is_written_nowhere(
    make_session: MakeSession,
    endpoint: Endpoint,
    tmp_path: Path,
    lines: list[str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    faults = [
        Fault(status=500, error={"message": f"echo {KEY}"}),
        Fault(content=f'{{"answers": [{{"id": 1, "triples": [], "remark": "{KEY}"}}]}}'),
        change(lambda answers: answers[2]["triples"][0].update(evidence=f"a {KEY} b", tail=KEY)),
        Fault(body=completion(None, refusal=f"no {KEY}")),
        Fault(body=f"<html>{KEY}"),
    ]
    endpoint.fault = lambda items, seen: faults[len(endpoint.log) % 6] if len(endpoint.log) % 6 < 5 else None
    extractor = LLMExtractor(make_session("skip", rounds=1, traffic={"concurrency": 1, "retries": 1}))
    extractor.extract(make_captions(40))
    endpoint.fault = lambda items, seen: Fault(status=403, error={"message": f"bad {KEY}"})
    with pytest.raises(ServiceError) as caught:
        extractor.extract(make_captions(60))
    captured = capfd.readouterr()
    outputs = [
        str(caught.value),
        repr(caught.value),
        repr(caught.getrepr(style="long")),
        *lines,
        captured.out,
        captured.err,
        caplog.text,
    ]
    outputs += [reason for _, reason in extractor.failures]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 3
    assert extractor.failures
    assert not any(KEY in text for text in outputs)
    assert not any(KEY.encode() in path.read_bytes() for path in written)
    assert caught.value.__cause__ is None


ROOT = Path(__file__).resolve().parents[3]
COUNT = 1000
LIMITED = Fault(status=429, headers={"retry-after": "0.02"}, kind="429")
BROKEN = Fault(status=500, kind="500")
MALFORMED = (
    Fault(content=lambda right: right[: len(right) // 2], finish="length", kind="malformed"),
    Fault(content="I see two pictures.", kind="malformed"),
    Fault(content=lambda right: right.replace('"tail": "', '"tail": "volcano of '), kind="malformed"),
)


def injected(items: tuple[Mapping[str, Any], ...], seen: int) -> Fault | None:
    """10 % 429, 5 % 500, 5 % malformed, drawn from the request's content and how often it came."""
    digest = hashlib.sha256(json.dumps([items, seen], sort_keys=True).encode()).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    if share < 0.10:
        return LIMITED
    if share < 0.15:
        return BROKEN
    return MALFORMED[digest[4] % len(MALFORMED)] if share < 0.20 else None


def rules_oracle(captions: Sequence[Caption]) -> Oracle:
    """A model that answers as the rules do, but for the few statements that an answer's check refuses."""
    statements: dict[str, list[dict[str, str]]] = {}
    text = {(caption.pair, caption.sentence): caption.text for caption in captions}
    for triple in RulesExtractor().extract(captions):
        caption = text[triple.pair, triple.sentence]
        statement = _statement(triple, caption)
        try:
            check_triples({"caption": caption}, TripleAnswer(id=1, triples=[Statement(**statement)]))
        except Rejected:
            continue
        statements.setdefault(" ".join(caption.split()), []).append(statement)
    return lambda item: {"triples": statements.get(item["caption"], [])}


def _statement(triple: Triple, caption: str) -> dict[str, str]:
    head, relation, tail = triple.key
    return {"head": head, "relation": relation, "tail": tail, "evidence": caption[slice(*triple.span)]}


def _real() -> list[Caption]:
    if not present(LEVIR):
        pytest.skip(f"no reference captions at {LEVIR[0]}; set SAGECC_REFERENCE_DATA to their folder")
    distinct = {caption.text: caption for caption in real_captions(LEVIR, "train") if implies_change(caption.text)}
    return random.Random(0).sample(list(distinct.values()), COUNT)


def _asked(exchanges: Sequence[Exchange]) -> list[str]:
    return [item["caption"] for exchange in exchanges for item in exchange.items]


def _stored(store: Path) -> set[str]:
    return {
        entry["item"]["caption"]
        for path in store.glob("*/answers/*.json")
        for entry in json.loads(path.read_text(encoding="utf-8"))["answers"]
    }


def _start(endpoint: Endpoint, store: Path, captions: Sequence[Caption]) -> subprocess.Popen[bytes]:
    file = store.with_suffix(".jsonl")
    file.write_text("".join(caption.model_dump_json() + "\n" for caption in captions), encoding="utf-8")
    arguments = [
        sys.executable,
        "-m",
        "tests.caption_graph.llm.client_process",
        endpoint.address,
        str(store),
        str(file),
    ]
    return subprocess.Popen(arguments, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["synthetic", pytest.param("real", marks=pytest.mark.reference_data)])
def test_thousand_captions_through_faults_and_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    captions = make_captions(COUNT) if kind == "synthetic" else _real()
    model = oracle if kind == "synthetic" else rules_oracle(captions)
    with Endpoint(model) as perfect:
        expected = LLMExtractor(faulty_session(perfect.address, tmp_path / "perfect")).extract(captions)
    assert len({(triple.pair, triple.sentence) for triple in expected}) > 0.99 * COUNT

    store = tmp_path / "store"
    with Endpoint(model, injected, key=KEY) as endpoint:
        client = _start(endpoint, store, captions)

        def kill_midway() -> None:
            if len(endpoint.answered) >= 45:
                os.kill(client.pid, signal.SIGKILL)

        endpoint.after = kill_midway
        assert client.wait(timeout=120) == -signal.SIGKILL
        endpoint.after = lambda: None
        before = list(endpoint.log)
        stored = _stored(store)
        assert 0.3 * COUNT < len(stored) < 0.7 * COUNT
        # What was answered and is not stored was under way when the process died: on the wire, or not yet written.
        answered = [exchange for exchange in before if exchange.fault is None]
        lost = [exchange for exchange in answered if not stored.issuperset(_asked([exchange]))]
        assert len(lost) <= CONCURRENCY

        extractor = LLMExtractor(faulty_session(endpoint.address, store))
        triples = extractor.extract(captions)
        assert triples == expected
        assert extractor.usage.stored == len(stored)

        after = endpoint.log[len(before) :]
        assert stored.isdisjoint(_asked(after))
        succeeded = _asked(
            [exchange for exchange in [*before, *after] if exchange.fault is None and exchange not in lost]
        )
        assert len(succeeded) == len(set(succeeded))
        kinds = endpoint.kinds()
        assert set(kinds) == {"429", "500", "malformed"}
        assert kinds["429"] >= 0.05 * len(endpoint.log)
        total = len(endpoint.log)

        monkeypatch.delenv("OPENAI_API_KEY")
        offline = LLMExtractor(faulty_session(endpoint.address, store))
        assert offline.extract(captions) == expected
        assert len(endpoint.log) == total
    print(f"{total} requests, faults {dict(kinds)}, stored at the kill {len(stored)}, lost with it {len(lost)}")
    files = [
        write_triples(tmp_path / f"{name}.jsonl", extracted) for name, extracted in (("a", expected), ("b", triples))
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.slow
def test_an_answer_is_stored_though_others_are_still_under_way(tmp_path: Path) -> None:
    captions = make_captions(60)  # six requests, all under way together
    quick = {caption.text.strip() for caption in captions[:30]}
    with Endpoint(
        oracle, lambda items, seen: None if items[0]["caption"] in quick else Fault(delay=60), KEY
    ) as endpoint:
        client = _start(endpoint, tmp_path / "store", captions)
        limit = time.monotonic() + 60
        while len(_stored(tmp_path / "store")) < 30 and time.monotonic() < limit:
            time.sleep(0.05)
        client.kill()
        client.wait(timeout=60)
        assert _stored(tmp_path / "store") == quick
        assert len(endpoint.answered) == 3
