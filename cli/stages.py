"""One command per stage, in the order of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import (
    PARAMS,
    PATHS,
    CacheAt,
    Caches,
    Params,
    Prepared,
    Set,
    Settings,
    out_file,
    out_folder,
    out_kept,
    project_paths,
    tell,
)

OutCache = Annotated[Path | None, out_kept("Cache to write [default: NAME.h5 in the caches' folder].")]


def prepare(
    params: Params = PARAMS,
    changes: Set = None,
    out: Annotated[Path, out_folder("Folder to write.")] = PATHS.prepared,
) -> None:
    """Bring a data set into pair records, a vocabulary and an audit of every mismatch.

    Example: sagecc prepare --set prepare.allow_missing_images=true
    """
    from stages import prepare as stage

    settings = Settings(params, changes)
    _done(stage.run(settings.prepare, PATHS.at(prepared=out), engine=settings.engine))
    for line in stage.summary(out):
        typer.echo(line)


def scenes(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = PATHS.prepared,
    caches: Caches = None,
    cache: CacheAt = None,
    out: OutCache = None,
) -> None:
    """Compute the backbone features of both dates of every pair.

    Killed or stopped, it goes on where it was. Example: sagecc scenes --set engine.engine=local
    """
    from stages import scenes as stage

    settings = Settings(params, changes)
    paths = project_paths(caches, cache, prepared=prepared, scenes=out)
    _done(stage.run(settings.scenes, paths, engine=settings.engine))


def masks(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = PATHS.prepared,
    caches: Caches = None,
    cache: CacheAt = None,
    out: OutCache = None,
) -> None:
    """Find SAM's automatic masks in both dates of every pair.

    Killed or stopped, it goes on where it was. Example: sagecc masks --set masks.generator.points_per_side=32
    """
    from stages import masks as stage

    settings = Settings(params, changes)
    paths = project_paths(caches, cache, prepared=prepared, masks=out)
    _done(stage.run(settings.masks, paths, engine=settings.engine))


def regions(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = PATHS.prepared,
    caches: Caches = None,
    cache: CacheAt = None,
    out: OutCache = None,
) -> None:
    """Describe every mask by RoIAlign features on SAM's feature map.

    Example: sagecc regions --set regions.store=grids
    """
    from stages import regions as stage

    settings = Settings(params, changes)
    paths = project_paths(caches, cache, prepared=prepared, regions=out)
    _done(stage.run(settings.regions, paths, engine=settings.engine))


def matches(
    params: Params = PARAMS,
    changes: Set = None,
    caches: Caches = None,
    cache: CacheAt = None,
    out: OutCache = None,
) -> None:
    """Match the regions of both dates, and list those that came or went.

    Example: sagecc matches --set matches.method=nearest
    """
    from stages import matches as stage

    settings = Settings(params, changes)
    paths = project_paths(caches, cache, matches=out)
    _done(stage.run(settings.matches, paths, engine=settings.engine))


def semantics(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = PATHS.prepared,
    caches: Caches = None,
    cache: CacheAt = None,
    out: OutCache = None,
) -> None:
    """Find the regions that text prompts name, and a semantic map of every date.

    Example: sagecc semantics --set semantics.top_q=10
    """
    from stages import semantics as stage

    settings = Settings(params, changes)
    paths = project_paths(caches, cache, prepared=prepared, semantics=out)
    _done(stage.run(settings.semantics, paths, engine=settings.engine))


def train(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = PATHS.prepared,
    caches: Caches = None,
    cache: CacheAt = None,
    out: Annotated[Path | None, out_folder("Folder of models to write [default: artifacts/models/NAME].")] = None,
    curves: Annotated[
        Path | None, typer.Option("--curves", help="Folder of training curves [default: artifacts/curves/NAME].")
    ] = None,
    overfit: Annotated[
        int | None,
        typer.Option(
            "--overfit",
            min=1,
            metavar="PAIRS",
            help="Learn the first so many training pairs by heart, as NAME-overfit: what cannot do that has a fault.",
        ),
    ] = None,
) -> None:
    """Train the captioner from the caches, once per seed.

    Stopped by Ctrl-C or killed, it goes on where it was. Example: sagecc train --set train.seeds=[1,2,3]
    """
    from stages import train as stage

    if overfit is not None:
        changes = [*(changes or []), f"train.overfit={overfit}"]
    settings = Settings(params, changes)
    section = settings.train
    name = section.name if overfit is None else f"{section.name}-overfit"
    paths = project_paths(caches, cache, name=name, prepared=prepared, models=out, curves=curves)
    _done(stage.run(section, paths, engine=settings.engine))


def caption(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = PATHS.prepared,
    caches: Caches = None,
    cache: CacheAt = None,
    models: Annotated[
        Path | None, typer.Option("--models", help="Folder that `sagecc train` wrote [default: artifacts/models/NAME].")
    ] = None,
    out: Annotated[Path | None, out_folder("Folder of captions to write [default: artifacts/captions/NAME].")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also store where each model looked for each word: seed-N.explanation.h5.")
    ] = False,
) -> None:
    """Write a sentence for every pair of a split, with every trained seed.

    Example: sagecc caption --set caption.split=val --set caption.beams=5
    """
    from stages import caption as stage

    settings = Settings(params, changes)
    name = settings.train.name
    section = settings.caption
    paths = project_paths(caches, cache, name=name, prepared=prepared, models=models, captions=out)
    _done(stage.run(section, paths, engine=settings.engine, explain=explain))


def evaluate(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = PATHS.prepared,
    captions: Annotated[
        Path | None,
        typer.Option("--captions", help="Folder that `sagecc caption` wrote [default: artifacts/captions/NAME]."),
    ] = None,
    out: Annotated[Path, out_file("Metrics file to write")] = PATHS.metrics,
    plots: Annotated[Path, typer.Option("--plots", help="Folder of plots and tables to write.")] = PATHS.plots,
) -> None:
    """Score the captions, beside two trivial captioners, over all, changed and unchanged pairs.

    Example: sagecc evaluate --set evaluate.meteor=never
    """
    from stages import evaluate as stage

    settings = Settings(params, changes)
    name = settings.train.name
    section = settings.evaluate
    paths = project_paths(name=name, prepared=prepared, captions=captions, metrics=out, plots=plots)
    tell(f"wrote {stage.run(section, paths, engine=settings.engine)}", out=out)
    tell(stage.summary(plots), out=out)


def _done(path: Path) -> None:
    typer.echo(f"wrote {path}")
