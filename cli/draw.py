"""`sagecc draw`: masks, matches and semantic regions of pairs as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages import paths


def draw(
    pairs: Annotated[list[str], typer.Argument(help="Ids as in pairs.jsonl; several are drawn row by row.")],
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")],
    prepared: Annotated[Path, typer.Option("--prepared", help="Folder that `sagecc prepare` wrote.")] = paths.PREPARED,
    masks: Annotated[Path, typer.Option("--masks", help="Cache that `sagecc masks` wrote.")] = paths.MASKS,
    matches: Annotated[Path, typer.Option("--matches", help="Cache that `sagecc matches` wrote.")] = paths.MATCHES,
    semantics: Annotated[
        Path, typer.Option("--semantics", help="Cache that `sagecc semantics` wrote.")
    ] = paths.SEMANTICS,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", help="Of several pairs: masks, matches, semantics or maps; may be given again."),
    ] = None,
    imagery: Annotated[
        bool, typer.Option(help="Show the images; without them regions lie on grey, for imagery not to be passed on.")
    ] = True,
) -> None:
    """Draw the masks of pairs, and their matches and semantic regions where they have been computed.

    Example: sagecc draw test_000004 test_000007 --kind matches --kind maps --out pairs.png
    """
    from stages import draw as stage

    path = stage.run(prepared, pairs, masks, matches, semantics, out, kinds=kind or (), imagery=imagery)
    typer.echo(f"wrote {path}")
