"""`sagecc doctor`: is this machine ready?"""

from __future__ import annotations

from pathlib import Path

import typer

_COLOURS = {"ok": typer.colors.GREEN, "note": typer.colors.YELLOW, "problem": typer.colors.RED}


def doctor() -> None:
    """Check versions, devices, Java, checkpoints and disk; exits with 2 when a stage would fail.

    Example: sagecc doctor
    """
    from pipeline.doctor import examine

    problems = 0
    for finding in examine(Path.cwd()):
        problems += finding.state == "problem"
        mark = typer.style(f"{finding.state:<8}", fg=_COLOURS[finding.state])
        typer.echo(f"{mark}{finding.topic:<13}{finding.text}")
        if finding.fix:
            typer.echo(f"{'':<21}{finding.fix}")
    raise typer.Exit(2 if problems else 0)
