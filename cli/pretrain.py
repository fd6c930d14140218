"""`sagecc pretrain`: train the mini models that ship with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import PARAMS, Params, Set, Settings
from stages import paths

app = typer.Typer(help="Train the mini models on the synthetic world.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Train the mini models on the synthetic world."""


@app.command()
def scenes(
    params: Params = PARAMS,
    changes: Set = None,
    out: Annotated[Path, typer.Option("--out", help="Weights to write.")] = paths.PRETRAINED
    / "scenes-mini.safetensors",
) -> None:
    """Train the mini scene backbone: land cover, objects and change on generated pairs.

    Example: sagecc pretrain scenes --set pretrain.scenes.world.train=500 --out trial.safetensors
    """
    from stages.pretrain import PretrainSettings
    from stages.pretrain import scenes as stage

    settings = Settings(params, changes)
    section = settings.section("pretrain", PretrainSettings).scenes
    typer.echo(f"wrote {stage.run(section, out, engine=settings.engine)}")
