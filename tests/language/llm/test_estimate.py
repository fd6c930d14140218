from __future__ import annotations

import json

import pytest

from pipeline.errors import SettingsError
from pipeline.language.llm.estimate import tokens
from pipeline.language.llm.triples import LLMExtractor
from pipeline.language.triples.records import Caption
from tests.language.llm.captions import make_captions
from tests.language.llm.conftest import MakeAsking
from tests.language.llm.server import Endpoint


def test_tokens_are_a_quarter_of_the_bytes() -> None:
    assert [tokens(text) for text in ("", "a", "four", "fiver", "ключ")] == [0, 1, 1, 2, 2]


def test_dry_run_sends_nothing_and_needs_no_key(
    make_asking: MakeAsking, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    captions = [*make_captions(12), *make_captions(3), Caption(pair="z", sentence=0, text="no change has occurred .")]
    made = LLMExtractor(make_asking(prices={"prompt": 2.0, "answer": 10.0, "currency": "EUR"})).estimate(captions)
    assert (made.items, made.stored, made.requests, made.currency) == (12, 0, 3, "EUR")
    assert made.cost == pytest.approx((2 * made.prompt_tokens + 10 * made.answer_tokens) / 1e6)
    assert endpoint.log == []


def test_estimate_is_near_what_is_sent(make_asking: MakeAsking, endpoint: Endpoint) -> None:
    extractor = LLMExtractor(make_asking())
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


def test_estimate_leaves_out_what_is_stored(make_asking: MakeAsking) -> None:
    extractor = LLMExtractor(make_asking())
    extractor.extract(make_captions(5))
    made = extractor.estimate(make_captions(12))
    assert (made.items, made.stored, made.requests, made.cost) == (7, 5, 2, None)
    done = extractor.estimate(make_captions(5))
    assert (done.requests, done.prompt_tokens, done.answer_tokens) == (0, 0, 0)


def test_model_must_be_named(make_asking: MakeAsking) -> None:
    with pytest.raises(SettingsError, match="no language model is named"):
        LLMExtractor(make_asking(model=None)).estimate(make_captions(1))
