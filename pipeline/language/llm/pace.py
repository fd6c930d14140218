"""When the next request may start: rate limits, waits that the endpoint asks for, and growing waits after failures."""

from __future__ import annotations

import email.utils
import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime

from pipeline.language.llm.settings import TrafficSettings

_MINUTE = 60.0


class Pace:
    """Spaces the starts of requests; all times in seconds of one clock, which the caller reads.

    Each start books the time that the request takes up of both limits (1 / requests per minute, tokens / tokens per
    minute), so that the average rate stays below the limits from the first request on.
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
        """Let no request start before `until`: the endpoint has asked all to wait."""
        self._held = max(self._held, until)

    def wait(self, now: float, start: float) -> float:
        """Seconds from `now` until a request booked for `start` may go; 0 when it may."""
        return max(0.0, start - now, self._held - now)


def backoff(traffic: TrafficSettings, attempt: int, key: str) -> float:
    """Seconds to wait after failure number `attempt` (from 0) of the request `key`.

    Doubles from `backoff` to `backoff_limit`; up to half is shaved off by a fraction drawn from the request's key and
    the attempt, so that requests that failed together come back apart, in every run alike.
    """
    longest = min(traffic.backoff_limit, traffic.backoff * 2.0 ** min(attempt, 60))
    digest = hashlib.sha256(f"{key}:{attempt}".encode()).digest()
    return longest * (0.5 + 0.5 * int.from_bytes(digest[:4], "big") / 2**32)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a response asks to wait: `retry-after-ms`, or `retry-after` in seconds or as an HTTP date.

    None where it asks for nothing that can be read. A date in the past is 0.
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
