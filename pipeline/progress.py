"""Progress on standard error: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_EVERY_SECONDS = 10.0
"""How often plain lines appear."""


class Bar(Protocol):
    """Interface of a progress bar."""

    def advance(self, count: int = 1) -> None:
        """Add `count` finished steps."""

    def say(self, text: str) -> None:
        """Print one line without disturbing the bar."""


_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress progress and messages within the block, for stages that run as a part of another command."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


@contextmanager
def track(title: str, total: int, *, done: int = 0) -> Iterator[Bar]:
    """Show the progress of `total` steps while the block runs.

    Args:
        title: What is being done.
        total: Number of steps.
        done: Steps that an earlier run finished; they do not count towards the speed.
    """
    if _silent.get():
        yield _SilentBar()
        return
    console = _console()
    if not console.is_terminal:
        lines = _LineBar(console, title, total, done)
        yield lines
        lines.finish()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _RichBar(progress, progress.add_task(title, total=total, completed=done))


def say(text: str) -> None:
    """Print one line on standard error."""
    if not _silent.get():
        _console().print(text, markup=False, highlight=False, soft_wrap=True)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


class _SilentBar:
    def advance(self, count: int = 1) -> None:
        pass

    def say(self, text: str) -> None:
        pass


class _RichBar:
    def __init__(self, progress: RichProgress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, count: int = 1) -> None:
        self._progress.advance(self._task, count)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


class _LineBar:
    def __init__(self, console: Console, title: str, total: int, done: int) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._done_before = done
        self._done = done
        self._started = time.monotonic()
        self._shown_at = self._started
        self._shown: int | None = None

    def advance(self, count: int = 1) -> None:
        self._done += count
        if time.monotonic() - self._shown_at >= _EVERY_SECONDS:
            self._show()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        if self._shown != self._done:
            self._show()

    def _show(self) -> None:
        self._shown_at, self._shown = time.monotonic(), self._done
        seconds = self._shown_at - self._started
        rate = (self._done - self._done_before) / seconds if seconds > 0 else 0.0
        share = f" ({self._done / self._total:.0%})" if self._total else ""
        remaining = (
            f", {_duration((self._total - self._done) / rate)} left" if rate > 0 and self._done < self._total else ""
        )
        count = f"{self._done:,}/{self._total:,}{share}"
        self.say(f"{self._title}: {count}, {_duration(seconds)}, {rate:,.1f} a second{remaining}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
