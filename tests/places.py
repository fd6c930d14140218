"""Where stages read and write in tests: the usual layout under the working directory, some places elsewhere."""

from __future__ import annotations

from pathlib import Path

from pipeline.paths import Paths


def at(**places: Path) -> Paths:
    return Paths.under().at(**places)
