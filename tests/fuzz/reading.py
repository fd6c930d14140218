"""Reading of mutated files: each must end in success or in the project's own error, in bounded time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pipeline.errors import SageccError

PATIENCE: Final = 20.0
"""Seconds of computing that no small file may take: thousands of times what one takes, so that only hangs reach it."""


@dataclass
class Tally:
    """Outcomes of many readings.

    Attributes:
        outcomes: How often each outcome came: "read", or the name of the project's error.
        slowest: Seconds of computing of the slowest, and its name.
        last: The last error in words.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    last: str = ""

    def try_to(self, read: Callable[[], object], name: str) -> None:
        """Read one file; raises AssertionError, naming the file, for any other exception and for a hang."""
        start = time.process_time()
        try:
            read()
            self.outcomes["read"] += 1
        except SageccError as error:
            assert error.what, name
            assert str(error).isprintable() or "\n" in str(error), name
            self.outcomes[type(error).__name__] += 1
            self.last = str(error)
        # Any other exception is what the test looks for; it is raised again with the name of the file.
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}"[:600]) from error
        seconds = time.process_time() - start
        assert seconds < PATIENCE, f"{name}: {seconds:.1f} s"
        self.slowest = max(self.slowest, (seconds, name))
