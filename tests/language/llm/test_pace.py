from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.language.llm.pace import Pace, backoff, retry_after
from pipeline.language.llm.settings import TrafficSettings


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
