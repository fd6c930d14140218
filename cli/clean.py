"""`sagecc clean`: the unfinished and finished work that interrupted stages go on from."""

from __future__ import annotations

from typing import Annotated

import typer

from stages import paths


def clean(
    stage: Annotated[str | None, typer.Argument(help="Stage whose work is removed, or all; none: list sizes.")] = None,
) -> None:
    """List what stages keep in .work, or remove it; finished caches and models stay.

    Without it a stage starts from the beginning. Example: sagecc clean scenes
    """
    from pipeline.errors import SettingsError
    from pipeline.execution import clean as remove
    from pipeline.execution import work_sizes

    sizes = work_sizes(paths.WORK)
    if stage is None:
        for name, size in sizes.items():
            typer.echo(f"{name:<20}{size / 2**20:10.1f} MiB")
        typer.echo("remove with `sagecc clean STAGE` or `sagecc clean all`" if sizes else f"{paths.WORK} is empty")
        return
    if stage != "all" and stage not in sizes:
        raise SettingsError(f"no work of a stage {stage!r} is kept", fix=f"one of: all, {', '.join(sizes)}")
    freed = remove(paths.WORK, None if stage == "all" else stage)
    typer.echo(f"freed {freed / 2**20:.1f} MiB")
