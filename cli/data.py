"""`sagecc data`: the synthetic world as a data set for others, and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.options import PARAMS, Params, Set, Settings
from stages import paths

app = typer.Typer(help="The synthetic world: export it in published layouts, look at it.", no_args_is_help=True)
World = Annotated[Path, typer.Option("--world", help="A generated world.")]


@app.command()
def generate(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    params: Params = PARAMS,
    changes: Set = None,
) -> None:
    """Generate a synthetic world on its own, without preparing it.

    Example: sagecc data generate --out world --set prepare.world.size=256
    """
    from pipeline.datasets.world import generate_world
    from stages.prepare import PrepareSettings

    settings = Settings(params, changes)
    pairs = generate_world(settings.section("prepare", PrepareSettings).world, out, engine=settings.engine)
    typer.echo(f"wrote {len(pairs)} pairs to {out}")


@app.command()
def export(
    layout: Annotated[Literal["levir-cc", "second-cc"], typer.Option("--layout", help="Whose layout.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    world: World = paths.PREPARED / "world",
) -> None:
    """Write the synthetic world in a published data set's own layout, so that other code can run on it.

    Example: sagecc data export --layout levir-cc --out exported
    """
    from pipeline.datasets.world import export_world

    typer.echo(f"wrote {export_world(world, layout, out)}")


@app.command()
def sheet(
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")],
    world: World = paths.PREPARED / "world",
    rows: Annotated[int, typer.Option("--rows", min=1, max=40, help="Pairs to show.")] = 6,
) -> None:
    """Draw pairs of the synthetic world side by side, with change mask and a caption.

    Example: sagecc data sheet --out sheet.png
    """
    from pipeline.datasets.world import contact_sheet

    typer.echo(f"wrote {contact_sheet(world, rows, out)}")
