"""How long a training took, over all its runs; kept beside its state, out of every file that must not differ."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import DataError
from pipeline.files import read_json, write_json

SECONDS = "seconds.json"


@contextmanager
def timed(path: Path, *, goes_on: bool) -> Iterator[None]:
    """Write the seconds that the block takes to `path`, whether it ends or is interrupted; a kill adds nothing.

    Args:
        path: A JSON file.
        goes_on: Add them to those of earlier runs.

    Raises:
        OutputError: The file cannot be written.
    """
    before, start = (read_seconds(path) or 0.0) if goes_on else 0.0, time.perf_counter()
    try:
        yield
    finally:
        write_json(path, {"seconds": before + time.perf_counter() - start})


def read_seconds(path: Path) -> float | None:
    """Read what `timed` wrote; None where there is nothing that it could have written."""
    try:
        found = read_json(path)
        return float(found["seconds"])
    except (DataError, KeyError, TypeError, ValueError):
        return None
