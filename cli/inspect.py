"""`sagecc inspect`: what a cache holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(file: Annotated[Path, typer.Argument(help="A cache, such as artifacts/caches/scenes.h5.")]) -> None:
    """Print what a cache holds: its origin, and name, shape, dtype, unit and statistics of every field.

    Example: sagecc inspect artifacts/caches/scenes.h5
    """
    from rich.console import Console

    from pipeline.cache.inspect import describe, render

    Console().print(render(describe(file)))
