"""`sagecc pretrain`: train the mini models that ship with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import PARAMS, PATHS, CacheAt, Caches, Params, Set, Settings, out_kept, project_paths
from cli.project import ProjectTyper

app = ProjectTyper(no_args_is_help=True)


@app.callback()
def group() -> None:
    """Train the mini models on the synthetic world.

    Their settings are left out of params.yaml; `sagecc settings pretrain` lists them.
    """


@app.command()
def scenes(
    params: Params = PARAMS,
    changes: Set = None,
    out: Annotated[Path, out_kept("Weights to write.")] = PATHS.pretrained / "scenes-mini.safetensors",
) -> None:
    """Train the mini scene backbone: land cover, objects and change on generated pairs.

    Example: sagecc pretrain scenes --set pretrain.scenes.world.train=500 --out trial.safetensors
    """
    from stages.pretrain import scenes as stage

    settings = Settings(params, changes)
    section = settings.pretrain.scenes
    typer.echo(f"wrote {stage.run(section, PATHS, engine=settings.engine, output=out)}")


@app.command()
def sam(
    params: Params = PARAMS,
    changes: Set = None,
    out: Annotated[Path, out_kept("Weights to write.")] = PATHS.pretrained / "sam-mini.safetensors",
) -> None:
    """Train the mini SAM: masks from points and boxes on generated scenes.

    Example: sagecc pretrain sam --set pretrain.sam.world.train=500 --out trial.safetensors
    """
    from stages.pretrain import sam as stage

    settings = Settings(params, changes)
    section = settings.pretrain.sam
    typer.echo(f"wrote {stage.run(section, PATHS, engine=settings.engine, output=out)}")


@app.command()
def matcher(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Annotated[
        Path | None,
        typer.Option("--prepared", help="Train on the images that `sagecc prepare` listed here, and on their masks."),
    ] = None,
    caches: Caches = None,
    cache: CacheAt = None,
    out: Annotated[Path, out_kept("Weights to write.")] = PATHS.pretrained / "matcher-mini.safetensors",
) -> None:
    """Train the region matcher on warped views of generated scenes, or of your own images.

    Example: sagecc pretrain matcher --prepared artifacts/prepared --out matcher.safetensors
    """
    from pipeline.errors import SettingsError
    from stages.pretrain import matcher as stage

    settings = Settings(params, changes)
    section = settings.pretrain.matcher
    if prepared is None and (caches or cache):
        raise SettingsError("images and their masks go together", fix="give --prepared with --cache, or neither")
    paths = project_paths(caches, cache, prepared=prepared)
    own_images = prepared is not None
    typer.echo(f"wrote {stage.run(section, paths, engine=settings.engine, output=out, own_images=own_images)}")


@app.command("grounding-dino")
def grounding_dino(
    params: Params = PARAMS,
    changes: Set = None,
    out: Annotated[Path, out_kept("Weights to write.")] = PATHS.pretrained / "grounding-dino-mini.safetensors",
) -> None:
    """Train the mini Grounding DINO: boxes of what text prompts name, on generated scenes.

    Example: sagecc pretrain grounding-dino --set pretrain.grounding_dino.world.train=500 --out trial.safetensors
    """
    from stages.pretrain import grounding_dino as stage

    settings = Settings(params, changes)
    section = settings.pretrain.grounding_dino
    typer.echo(f"wrote {stage.run(section, PATHS, engine=settings.engine, output=out)}")
