"""One command per stage, in the order of dvc.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import PARAMS, Params, Set, Settings
from stages import paths

Prepared = Annotated[Path, typer.Option("--prepared", help="Folder that `sagecc prepare` wrote.")]
Scenes = Annotated[Path, typer.Option("--scenes", help="Cache that `sagecc scenes` wrote.")]


def prepare(
    params: Params = PARAMS,
    changes: Set = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = paths.PREPARED,
) -> None:
    """Bring a data set into pair records, a vocabulary and an audit of every mismatch.

    Example: sagecc prepare --set prepare.allow_missing_images=true
    """
    from stages import prepare as stage

    settings = Settings(params, changes)
    _done(stage.run(settings.section("prepare", stage.PrepareSettings), out, engine=settings.engine))
    for line in stage.summary(out):
        typer.echo(line)


def scenes(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = paths.PREPARED,
    out: Annotated[Path, typer.Option("--out", help="Cache to write.")] = paths.SCENES,
) -> None:
    """Compute the backbone features of both dates of every pair.

    Killed or stopped, it goes on where it was. Example: sagecc scenes --set engine.engine=local
    """
    from stages import scenes as stage

    settings = Settings(params, changes)
    _done(stage.run(settings.section("scenes", stage.ScenesSettings), prepared, out, engine=settings.engine))


def train(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = paths.PREPARED,
    scenes: Scenes = paths.SCENES,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of models to write [default: artifacts/models/NAME].")
    ] = None,
    curves: Annotated[
        Path | None, typer.Option("--curves", help="Folder of training curves [default: artifacts/curves/NAME].")
    ] = None,
) -> None:
    """Train the captioner from the caches, once per seed.

    Stopped by Ctrl-C or killed, it goes on where it was. Example: sagecc train --set train.seeds=[1,2,3]
    """
    from stages import train as stage

    settings = Settings(params, changes)
    section = settings.section("train", stage.TrainSettings)
    models, plots = out or paths.models(section.name), curves or paths.curves(section.name)
    _done(stage.run(section, prepared, scenes, models, engine=settings.engine, curves=plots))


def caption(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = paths.PREPARED,
    scenes: Scenes = paths.SCENES,
    models: Annotated[
        Path | None, typer.Option("--models", help="Folder that `sagecc train` wrote [default: artifacts/models/NAME].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of captions to write [default: artifacts/captions/NAME].")
    ] = None,
) -> None:
    """Write a sentence for every pair of a split, with every trained seed.

    Example: sagecc caption --set caption.split=val --set caption.beams=5
    """
    from stages import caption as stage
    from stages.train import TrainSettings

    settings = Settings(params, changes)
    name = settings.section("train", TrainSettings).name
    section = settings.section("caption", stage.CaptionSettings)
    target = out or paths.captions(name)
    _done(stage.run(section, prepared, scenes, models or paths.models(name), target, engine=settings.engine))


def evaluate(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = paths.PREPARED,
    captions: Annotated[
        Path | None,
        typer.Option("--captions", help="Folder that `sagecc caption` wrote [default: artifacts/captions/NAME]."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Metrics file to write.")] = paths.METRICS,
    plots: Annotated[Path, typer.Option("--plots", help="Folder of plots and tables to write.")] = paths.PLOTS,
) -> None:
    """Score the captions, beside two trivial captioners, over all, changed and unchanged pairs.

    Example: sagecc evaluate --set evaluate.meteor=never
    """
    from stages import evaluate as stage
    from stages.train import TrainSettings

    settings = Settings(params, changes)
    name = settings.section("train", TrainSettings).name
    section = settings.section("evaluate", stage.EvaluateSettings)
    source = captions or paths.captions(name)
    _done(stage.run(section, prepared, source, out, plots, engine=settings.engine))
    typer.echo(stage.summary(plots))


def _done(path: Path) -> None:
    typer.echo(f"wrote {path}")
