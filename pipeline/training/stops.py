"""Reasons for which a training ends early: the user, or numbers that run away."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from pipeline.errors import SageccError


class Interrupted(SageccError):  # noqa: N818 - a request that was granted
    """The user stopped a run; its state is saved. The command line exits with `exit_code`."""

    exit_code = 130
    """128 + SIGINT, as shells expect."""


class DivergedError(SageccError):
    """The loss became NaN or infinite."""


class StopRequest:
    """While entered, the first SIGINT only sets `requested`; a second one interrupts as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __call__(self) -> bool:
        """Tell whether the user asked to stop."""
        return self.requested

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread alone and lets no other install handlers.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
