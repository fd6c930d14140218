"""`sagecc checkpoints`: published weights, listed and fetched on request."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Published weights: list them, fetch them.", no_args_is_help=True)


@app.command("list")
def list_checkpoints() -> None:
    """List the published weights the project knows, with size, licence and whether they are here.

    Example: sagecc checkpoints list
    """
    from rich.console import Console
    from rich.table import Table

    from pipeline.checkpoints import CHECKPOINTS

    table = Table("name", "here", "size", "setting", "licence", "address")
    for checkpoint in CHECKPOINTS.values():
        here = "yes" if checkpoint.path.is_file() else "no"
        table.add_row(checkpoint.name, here, checkpoint.size, checkpoint.used_by, checkpoint.licence, checkpoint.url)
    Console().print(table)


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="A name that `sagecc checkpoints list` prints.")]) -> None:
    """Download published weights and check their SHA-256.

    Example: sagecc checkpoints fetch resnet101
    """
    from pipeline.checkpoints import fetch as fetch_checkpoint

    typer.echo(f"wrote {fetch_checkpoint(name)}")
