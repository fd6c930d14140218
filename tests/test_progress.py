from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline import progress


def test_plain_lines_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.track("work", 1000, done=200) as bar:
        bar.advance(300)
        bar.say("a line [of its own]")
        bar.advance(500)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "a line [of its own]"
    assert lines[1].startswith("work: 1,000/1,000 (100%)")
    assert len(lines) == 2


def test_plain_lines_come_by_the_clock_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.track("work", 100, done=20) as bar:
        for _ in range(4):
            now[0] += 6
            bar.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "work: 40/100 (40%), 12 s, 1.7 a second, 36 s left"
    assert lines[1] == "work: 60/100 (60%), 24 s, 1.7 a second, 24 s left"
    assert len(lines) == 2


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "_console", lambda: Console(file=screen, force_terminal=True, width=100))
    with progress.track("work", 10) as bar:
        bar.advance(4)
        bar.say("halfway")
        bar.advance(6)
    assert "10/10" in screen.getvalue()
    assert "halfway" in screen.getvalue()


def test_durations_are_readable() -> None:
    assert [progress._duration(seconds) for seconds in (0.4, 75, 3700)] == ["0 s", "1 min 15 s", "1 h 01 min"]
