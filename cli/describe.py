"""`sagecc describe`: what changed between two images of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import PARAMS, Params, Set, Settings
from stages import paths


def describe(
    before: Annotated[Path, typer.Argument(help="The earlier image.")],
    after: Annotated[Path, typer.Argument(help="The later image, of the same extent and size.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="A trained model [default: the first seed of the active settings].")
    ] = None,
    graph: Annotated[
        Path, typer.Option("--graph", help="The caption graph that the model was trained with, if it takes one.")
    ] = paths.GRAPH,
    params: Params = PARAMS,
    changes: Set = None,
) -> None:
    """Say in words what changed between two images.

    Example: sagecc describe before.png after.png --set caption.n_best=3 --set caption.beams=5
    """
    from stages import describe as stage
    from stages.caption import CaptionSettings
    from stages.train import TrainSettings

    settings = Settings(params, changes)
    train = settings.section("train", TrainSettings)
    folder = model or paths.models(train.name) / f"seed-{train.seeds[0]}"
    search = settings.section("caption", CaptionSettings)
    found = stage.run(
        search,
        before,
        after,
        folder,
        engine=settings.engine,
        mass=search.change_threshold if search.change == "mass" else None,
        graph=graph,
    )
    for remark in found.remarks:
        typer.echo(remark, err=True)
    if len(found.sentences) == 1:
        typer.echo(found.sentences[0])
        return
    for sentence, score in zip(found.sentences, found.scores, strict=True):
        typer.echo(f"{score:8.3f}  {sentence}")
