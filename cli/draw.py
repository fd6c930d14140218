"""`sagecc draw`: masks, matches and semantic regions of a pair as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages import paths


def draw(
    pair: Annotated[str, typer.Argument(help="The pair's id, as in pairs.jsonl.")],
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")],
    prepared: Annotated[Path, typer.Option("--prepared", help="Folder that `sagecc prepare` wrote.")] = paths.PREPARED,
    masks: Annotated[Path, typer.Option("--masks", help="Cache that `sagecc masks` wrote.")] = paths.MASKS,
    matches: Annotated[Path, typer.Option("--matches", help="Cache that `sagecc matches` wrote.")] = paths.MATCHES,
    semantics: Annotated[
        Path, typer.Option("--semantics", help="Cache that `sagecc semantics` wrote.")
    ] = paths.SEMANTICS,
) -> None:
    """Draw the masks of a pair, and its matches and semantic regions where they have been computed.

    Example: sagecc draw test_000004 --out pair.png
    """
    from stages import draw as stage

    typer.echo(f"wrote {stage.run(prepared, pair, masks, matches, semantics, out)}")
