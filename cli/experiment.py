"""`sagecc experiment`: a table of the paper, or of one's own, run row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import PARAMS, PATHS, CacheAt, Caches, Params, Prepared, Set, Settings, out_folder, project_paths


def experiment(
    name: Annotated[
        str | None, typer.Argument(help="table4 to table8, seeds, or a YAML file.", metavar="NAME|FILE.yaml")
    ] = None,
    params: Params = PARAMS,
    changes: Set = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="N,N,…", help="Seeds of every row, in place of the experiment's.")
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option("--rows", metavar="N,N,…", help="Run only the rows of these numbers; the table has all."),
    ] = None,
    resamples: Annotated[
        int, typer.Option("--resamples", min=1, max=1_000_000, help="Resamples of the paired bootstrap.")
    ] = 1000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the rows, and what is done already.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the experiments that come with sagecc.")] = False,
    prepared: Prepared = PATHS.prepared,
    caches: Caches = None,
    cache: CacheAt = None,
    out: Annotated[Path | None, out_folder("Folder to write [default: artifacts/experiments/NAME].")] = None,
) -> None:
    """Train and score the rows of a table, with mean and deviation over seeds and a bootstrap between rows.

    Finished rows are kept: stopped or killed, the same command goes on. A file has `rows`, each with a `label` and a
    list `set` of section.key=value, or a `grid` of section.key to values; and, if need be, `seeds`, `set` for all
    rows, `name` and `title`.

    Example: sagecc experiment table4 --seeds 1,2,3 --set train.epochs=8
    """
    from pipeline.errors import SettingsError
    from pipeline.experiments.rows import BUILTIN, builtin, read_experiment

    if listed:
        for each in BUILTIN.values():
            typer.echo(f"{each.name:<8}{each.title}: {', '.join(row.label for row in each.all_rows)}")
        return
    if name is None:
        raise SettingsError("which experiment?", fix="sagecc experiment NAME; `sagecc experiment --list` names them")
    from stages import experiment as stage

    chosen = read_experiment(Path(name)) if name.endswith((".yaml", ".yml")) else builtin(name)
    settings = Settings(params, stage.assignments(chosen, changes or (), seeds))
    plans = stage.plan(chosen, settings.document, where=str(params))
    paths = project_paths(caches, cache, prepared=prepared)
    target = out or paths.experiments / chosen.name
    if dry_run:
        for line in stage.status(plans, paths, target):
            typer.echo(line)
        return
    numbers = None if rows is None else _numbers(rows)
    table = stage.run(chosen, plans, paths, target, rows=numbers, resamples=resamples)
    typer.echo(stage.summary(table))
    typer.echo(f"\nwrote {table}")


def _numbers(text: str) -> list[int]:
    from pipeline.errors import SettingsError

    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise SettingsError(f"cannot read {text!r}", where="--rows", fix="write numbers, as in --rows 1,3") from error
