"""A small stage as a command: `python -m tests.execution.squares_stage FOLDER ENGINE [SECONDS]`; without PyTorch."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from pipeline.execution.build import build_cache
from tests.execution.workers import SCHEMA, Squares, engine, items, provenance

COUNT = 60


def run(folder: Path, engine_name: str = "inline", seconds: float = 0.015) -> Path:
    return build_cache(
        folder / "squares.h5",
        SCHEMA,
        provenance(),
        [str(index) for index in range(COUNT)],
        items(COUNT),
        partial(Squares, folder / "log", seconds=seconds),
        work=folder / ".work",
        engine=engine(engine_name),
        group=4,
    )


if __name__ == "__main__":
    print("ready", flush=True)
    run(Path(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:]))
