from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.caption_graph.llm.client import Pace, backoff, find_endpoint, retry_after
from pipeline.caption_graph.settings import LLMSettings, TrafficSettings
from pipeline.errors import ServiceError, SettingsError
from tests.caption_graph.llm.conftest import KEY


def test_address_comes_from_settings_then_environment_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_endpoint(LLMSettings(model="m")).address == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://host:1/v1/")
    assert find_endpoint(LLMSettings(model="m")).address == "http://host:1/v1"
    assert find_endpoint(LLMSettings(model="m", base_url="http://other/v1")).address == "http://other/v1"


def test_secret_in_the_environments_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:s3cret@host/v1")
    with pytest.raises(SettingsError) as caught:
        find_endpoint(LLMSettings(model="m"))
    assert "s3cret" not in str(caught.value)


def test_no_model() -> None:
    with pytest.raises(SettingsError, match="no language model is named"):
        find_endpoint(LLMSettings())


@pytest.mark.parametrize("value", [None, "", "  "])
def test_missing_key_names_variable_and_cure(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(ServiceError, match="no API key") as caught:
        find_endpoint(LLMSettings(model="m"))
    assert "OPENAI_API_KEY" in str(caught.value)
    assert "export OPENAI_API_KEY" in str(caught.value.fix)


def test_key_from_another_variable_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", " k1\n")
    assert find_endpoint(LLMSettings(model="m", key_variable="OTHER")).key == "k1"
    assert find_endpoint(LLMSettings(model="m", key_variable=None)).key is None


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-ключ", "sk a"])
def test_key_that_cannot_be_a_header_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ServiceError, match="outside ASCII") as caught:
        find_endpoint(LLMSettings(model="m"))
    assert "sk" not in str(caught.value)


def test_key_in_place_of_the_variables_name_is_not_shown() -> None:
    with pytest.raises(SettingsError, match="name of an environment variable") as caught:
        find_endpoint(LLMSettings(model="m", key_variable="sk-secret-1"))
    assert "sk-secret-1" not in str(caught.value)


def test_key_that_stands_in_the_settings_is_refused() -> None:
    with pytest.raises(SettingsError, match="stands in the settings") as caught:
        find_endpoint(LLMSettings(model="m", extra={"user": f"x{KEY}"}))
    assert KEY not in str(caught.value)


def test_key_is_not_part_of_the_representation() -> None:
    assert KEY not in repr(find_endpoint(LLMSettings(model="m")))


def test_foreign_text_is_cleaned() -> None:
    endpoint = find_endpoint(LLMSettings(model="m"))
    assert endpoint.clean(f"bad\x1b[31m key\r\n {KEY}!") == "bad [31m key ***!"
    assert len(endpoint.clean("x" * 1000)) == 300


def test_without_limits_everything_starts_at_once() -> None:
    pace = Pace(TrafficSettings())
    assert [pace.book(5.0, 1000) for _ in range(3)] == [5.0, 5.0, 5.0]


def test_requests_per_minute_space_the_starts() -> None:
    pace = Pace(TrafficSettings(requests_per_minute=120))
    assert [pace.book(10.0, 1) for _ in range(3)] == [10.0, 10.5, 11.0]
    assert pace.book(60.0, 1) == 60.0  # time that nobody used is not saved up


def test_tokens_per_minute_space_the_starts_by_size() -> None:
    pace = Pace(TrafficSettings(requests_per_minute=600, tokens_per_minute=6000))
    assert [pace.book(0.0, tokens) for tokens in (300, 2, 1)] == pytest.approx([0.0, 3.0, 3.1])


def test_hold_lets_nobody_start() -> None:
    pace = Pace(TrafficSettings())
    start = pace.book(0.0, 1)
    pace.hold(7.0)
    pace.hold(3.0)
    assert pace.wait(1.0, start) == 6.0
    assert pace.wait(8.0, start) == 0.0


def test_backoff_doubles_up_to_its_limit_and_is_repeatable() -> None:
    traffic = TrafficSettings(backoff=1.0, backoff_limit=5.0)
    for attempt, longest in enumerate([1.0, 2.0, 4.0, 5.0, 5.0]):
        assert longest / 2 <= backoff(traffic, attempt, "a") <= longest
    assert backoff(traffic, 2, "a") == backoff(traffic, 2, "a")
    assert len({backoff(traffic, 2, name) for name in "abcdef"}) == 6
    assert backoff(traffic, 100_000, "a") <= 5.0


NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, float("inf")),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds
