"""One command per stage, in the order of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import PARAMS, Params, Set, Settings
from stages import paths
from stages.settings import (
    CaptionSettings,
    EvaluateSettings,
    MasksSettings,
    MatchesSettings,
    PrepareSettings,
    RegionsSettings,
    ScenesSettings,
    SemanticsSettings,
    TrainSettings,
)

Prepared = Annotated[Path, typer.Option("--prepared", help="Folder that `sagecc prepare` wrote.")]
Scenes = Annotated[Path, typer.Option("--scenes", help="Cache that `sagecc scenes` wrote.")]

Regions = Annotated[
    Path, typer.Option("--regions", help="Cache that `sagecc regions` wrote; read where the fusion takes motion.")
]
Matches = Annotated[
    Path, typer.Option("--matches", help="Cache that `sagecc matches` wrote; read where the fusion takes motion.")
]
Semantics = Annotated[
    Path,
    typer.Option("--semantics", help="Cache that `sagecc semantics` wrote; read where the fusion takes semantics."),
]
Graph = Annotated[
    Path, typer.Option("--graph", help="Folder that `sagecc graph` wrote; read where the fusion takes the graph.")
]


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
    _done(stage.run(settings.section("prepare", PrepareSettings), out, engine=settings.engine))
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
    _done(stage.run(settings.section("scenes", ScenesSettings), prepared, out, engine=settings.engine))


def masks(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = paths.PREPARED,
    out: Annotated[Path, typer.Option("--out", help="Cache to write.")] = paths.MASKS,
) -> None:
    """Find SAM's automatic masks in both dates of every pair.

    Killed or stopped, it goes on where it was. Example: sagecc masks --set masks.generator.points_per_side=32
    """
    from stages import masks as stage

    settings = Settings(params, changes)
    _done(stage.run(settings.section("masks", MasksSettings), prepared, out, engine=settings.engine))


def regions(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = paths.PREPARED,
    masks: Annotated[Path, typer.Option("--masks", help="Cache that `sagecc masks` wrote.")] = paths.MASKS,
    out: Annotated[Path, typer.Option("--out", help="Cache to write.")] = paths.REGIONS,
) -> None:
    """Describe every mask by RoIAlign features on SAM's feature map.

    Example: sagecc regions --set regions.store=grids
    """
    from stages import regions as stage

    settings = Settings(params, changes)
    _done(stage.run(settings.section("regions", RegionsSettings), prepared, masks, out, engine=settings.engine))


def matches(
    params: Params = PARAMS,
    changes: Set = None,
    regions: Annotated[Path, typer.Option("--regions", help="Cache that `sagecc regions` wrote.")] = paths.REGIONS,
    out: Annotated[Path, typer.Option("--out", help="Cache to write.")] = paths.MATCHES,
) -> None:
    """Match the regions of both dates, and list those that came or went.

    Example: sagecc matches --set matches.method=nearest
    """
    from stages import matches as stage

    settings = Settings(params, changes)
    _done(stage.run(settings.section("matches", MatchesSettings), regions, out, engine=settings.engine))


def semantics(
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = paths.PREPARED,
    masks: Annotated[
        Path, typer.Option("--masks", help="Cache that `sagecc masks` wrote; SAM's embeddings in it are used.")
    ] = paths.MASKS,
    out: Annotated[Path, typer.Option("--out", help="Cache to write.")] = paths.SEMANTICS,
) -> None:
    """Find the regions that text prompts name, and a semantic map of every date.

    Example: sagecc semantics --set semantics.top_q=10
    """
    from stages import semantics as stage

    settings = Settings(params, changes)
    chosen = settings.section("semantics", SemanticsSettings)
    _done(stage.run(chosen, prepared, out, engine=settings.engine, masks=masks))


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
    regions: Regions = paths.REGIONS,
    matches: Matches = paths.MATCHES,
    semantics: Semantics = paths.SEMANTICS,
    graph: Graph = paths.GRAPH,
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
    section = settings.section("train", TrainSettings)
    name = section.name if overfit is None else f"{section.name}-overfit"
    models, plots = out or paths.models(name), curves or paths.curves(name)
    found = stage.run(
        section,
        prepared,
        scenes,
        models,
        engine=settings.engine,
        curves=plots,
        regions=regions,
        matches=matches,
        semantics=semantics,
        graph=graph,
    )
    _done(found)


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
    regions: Regions = paths.REGIONS,
    matches: Matches = paths.MATCHES,
    semantics: Semantics = paths.SEMANTICS,
    graph: Graph = paths.GRAPH,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also store where each model looked for each word: seed-N.explanation.h5.")
    ] = False,
) -> None:
    """Write a sentence for every pair of a split, with every trained seed.

    Example: sagecc caption --set caption.split=val --set caption.beams=5
    """
    from pipeline.training.settings import TrainSettings
    from stages import caption as stage

    settings = Settings(params, changes)
    name = settings.section("train", TrainSettings).name
    section = settings.section("caption", CaptionSettings)
    target = out or paths.captions(name)
    found = stage.run(
        section,
        prepared,
        scenes,
        models or paths.models(name),
        target,
        engine=settings.engine,
        regions=regions,
        matches=matches,
        semantics=semantics,
        graph=graph,
        explain=explain,
    )
    _done(found)


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
    from pipeline.training.settings import TrainSettings
    from stages import evaluate as stage

    settings = Settings(params, changes)
    name = settings.section("train", TrainSettings).name
    section = settings.section("evaluate", EvaluateSettings)
    source = captions or paths.captions(name)
    _done(stage.run(section, prepared, source, out, plots, engine=settings.engine))
    typer.echo(stage.summary(plots))


def _done(path: Path) -> None:
    typer.echo(f"wrote {path}")
