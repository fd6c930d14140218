"""`sagecc init`: write params.yaml from a named profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import PARAMS, Set


def init(
    profile: Annotated[
        str,
        typer.Argument(help="synthetic, levir-cc, levir-cc-tags, levir-mci, dubai-cc, whu-cdc, second-cc or folder."),
    ] = "synthetic",
    root: Annotated[str | None, typer.Option("--root", help="The data set's folder.")] = None,
    allow_missing_images: Annotated[
        bool, typer.Option("--allow-missing-images", help="Work with the pairs whose images are there.")
    ] = False,
    mini: Annotated[
        bool, typer.Option("--mini", help="Use the mini models that ship instead of published checkpoints.")
    ] = False,
    changes: Set = None,
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = PARAMS,
    force: Annotated[bool, typer.Option("--force", help="Overwrite without keeping a copy.")] = False,
) -> None:
    """Write params.yaml from a named profile.

    Example: sagecc init levir-cc --root ~/data/Levir-CC-dataset
    """
    from pipeline.files import write_text
    from stages.profiles import missing_files, next_command, profile_sections, render_profile

    assignments = [*(changes or []), *(["prepare.allow_missing_images=true"] if allow_missing_images else [])]
    sections = profile_sections(profile, root, assignments, mini=mini)
    if out.exists() and not force:
        backup = out.with_suffix(out.suffix + ".bak")
        write_text(backup, out.read_text(encoding="utf-8"))
        typer.echo(f"kept the old settings as {backup}")
    write_text(out, render_profile(profile, sections))
    typer.echo(f"wrote {out} from profile {profile}")
    command = next_command(sections)
    for path, advice in missing_files(sections):
        typer.echo(f"before `{command}`: {path} is not there")
        typer.echo(f"  {advice}")
    typer.echo(f"next: {command}")
