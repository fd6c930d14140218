"""Entry point of `sagecc`: a table of commands, and the one place where errors become an exit code."""

from __future__ import annotations

import sys

import typer

from cli import experiment, graph, pretrain, stages, tools
from cli.environment import prepare_environment
from cli.project import ProjectTyper
from pipeline.errors import ResourceError, SageccError
from pipeline.execution.failures import ran_out
from pipeline.malloc import tune_glibc
from pipeline.openmp import shorten_spinning
from pipeline.system_errors import refusal
from pipeline.targets import drop_stdout

app = ProjectTyper(
    name="sagecc",
    help="Describe in words what changed between two satellite or aerial images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_MORE_MEMORY = (
    "end other programs, or raise its limit (`ulimit -v`, `-u` for threads, that of the container or job); "
    "smaller images, batches or fewer engine.workers need less"
)


@app.callback(help=app.info.help)
def every_command() -> None:
    """Take `--project` before the command's name as well."""


app.command(cls=tools.InitCommand, searched=False)(tools.init)
for command in (
    stages.prepare,
    stages.scenes,
    stages.masks,
    stages.regions,
    stages.matches,
    stages.semantics,
    stages.train,
    stages.caption,
    stages.evaluate,
):
    app.command()(command)
app.command()(experiment.experiment)
app.command()(tools.describe)
app.command()(tools.inspect)
app.command()(tools.draw)
app.command()(tools.settings)
app.command()(tools.doctor)
app.command()(tools.clean)
app.add_typer(graph.app, name="graph")
app.add_typer(tools.data_app, name="data")
app.add_typer(pretrain.app, name="pretrain")
app.add_typer(tools.checkpoints_app, name="checkpoints")


def main() -> None:
    """Run the command line; a user's mistake is told in a few lines and exits with 2."""
    tune_glibc()
    shorten_spinning()
    try:
        prepare_environment()
        app()
    except SageccError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(error.exit_code)
    # What no part told better: refusals of the system, and memory that ran out, for which each library has an error
    # of its own. Everything else is raised again.
    except Exception as error:
        refused = refusal(error) if isinstance(error, OSError) else None
        if refused is None and ran_out(error) == "memory":
            refused = ResourceError("memory ran out", fix=_MORE_MEMORY)
        if refused is None:
            raise
        typer.secho(f"error: {refused}", fg=typer.colors.RED, err=True)
        drop_stdout()
        sys.exit(refused.exit_code)
    except KeyboardInterrupt:
        typer.secho("interrupted; run the same command again to go on", err=True)
        sys.exit(130)
