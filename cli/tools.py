"""Commands beside the stages: settings, new settings files, checks, clean-up, data exports, pictures and caches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

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
    project_paths,
    tell,
)
from cli.project import ProjectTyper

checkpoints_app = ProjectTyper(help="Published weights: list them, fetch them.", no_args_is_help=True)


@checkpoints_app.command("list")
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


@checkpoints_app.command()
def fetch(name: Annotated[str, typer.Argument(help="A name that `sagecc checkpoints list` prints.")]) -> None:
    """Download published weights and check their SHA-256.

    Example: sagecc checkpoints fetch resnet101
    """
    from pipeline.checkpoints import fetch as fetch_checkpoint

    typer.echo(f"wrote {fetch_checkpoint(name)}")


def clean(
    stage: Annotated[str | None, typer.Argument(help="Stage whose work is removed, or all; none: list sizes.")] = None,
) -> None:
    """List what stages keep in .work, or remove it; finished caches and models stay.

    Without it a stage starts from the beginning. Example: sagecc clean scenes
    """
    from pipeline.errors import SettingsError
    from pipeline.execution.build import clean as remove
    from pipeline.execution.build import work_sizes

    sizes = work_sizes(PATHS.work)
    if stage is None:
        for name, size in sizes.items():
            typer.echo(f"{name:<20}{size / 2**20:10.1f} MiB")
        typer.echo("remove with `sagecc clean STAGE` or `sagecc clean all`" if sizes else f"{PATHS.work} is empty")
        return
    if stage != "all" and stage not in sizes:
        raise SettingsError(f"no work of a stage {stage!r} is kept", fix=f"one of: all, {', '.join(sizes)}")
    freed = remove(PATHS.work, None if stage == "all" else stage)
    typer.echo(f"freed {freed / 2**20:.1f} MiB")


data_app = ProjectTyper(help="The synthetic world: export it in published layouts, look at it.", no_args_is_help=True)
World = Annotated[Path, typer.Option("--world", help="A generated world.")]


@data_app.command()
def generate(
    out: Annotated[Path, out_folder("Folder to write.")],
    params: Params = PARAMS,
    changes: Set = None,
) -> None:
    """Generate a synthetic world on its own, without preparing it.

    Example: sagecc data generate --out world --set prepare.world.size=256
    """
    from pipeline.datasets.world.files import generate_world

    settings = Settings(params, changes)
    pairs = generate_world(settings.prepare.world, out, engine=settings.engine)
    typer.echo(f"wrote {len(pairs)} pairs to {out}")


@data_app.command()
def export(
    layout: Annotated[Literal["levir-cc", "second-cc"], typer.Option("--layout", help="Whose layout.")],
    out: Annotated[Path, out_folder("Folder to write.")],
    world: World = PATHS.prepared / "world",
) -> None:
    """Write the synthetic world in a published data set's own layout, so that other code can run on it.

    Example: sagecc data export --layout levir-cc --out exported
    """
    from pipeline.datasets.world.files import export_world

    typer.echo(f"wrote {export_world(world, layout, out)}")


@data_app.command()
def sheet(
    out: Annotated[Path, out_file("PNG to write")],
    world: World = PATHS.prepared / "world",
    rows: Annotated[int, typer.Option("--rows", min=1, max=40, help="Pairs to show.")] = 6,
) -> None:
    """Draw pairs of the synthetic world side by side, with change mask and a caption.

    Example: sagecc data sheet --out sheet.png
    """
    from pipeline.datasets.world.sheet import contact_sheet

    tell(f"wrote {contact_sheet(world, rows, out)}", out=out)


def describe(
    before: Annotated[Path, typer.Argument(help="The earlier image.")],
    after: Annotated[Path, typer.Argument(help="The later image, of the same extent and size.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="A trained model [default: the first seed of the active settings].")
    ] = None,
    georeference: Annotated[
        Literal["refuse", "remark", "ignore"] | None,
        typer.Option(
            "--georeference",
            help="What to do when by their coordinates the images do not cover the same ground [default: refuse, or "
            "remark where prepare.strict lacks georeference-mismatch].",
        ),
    ] = None,
    caches: Caches = None,
    cache: CacheAt = None,
    params: Params = PARAMS,
    changes: Set = None,
) -> None:
    """Say in words what changed between two images.

    Example: sagecc describe before.png after.png --set caption.n_best=3 --set caption.beams=5
    """
    from stages import describe as stage

    settings = Settings(params, changes)
    train = settings.train
    paths = project_paths(caches, cache, name=train.name)
    folder = model or paths.models / f"seed-{train.seeds[0]}"
    search = settings.caption
    description = stage.run(
        search,
        before,
        after,
        folder,
        paths,
        engine=settings.engine,
        change_threshold=search.change_threshold if search.change == "mass" else None,
        no_change=settings.prepare.no_change_sentences,
        georeference=georeference or ("refuse" if "georeference-mismatch" in settings.prepare.strict else "remark"),
    )
    for remark in description.remarks:
        typer.echo(remark, err=True)
    if len(description.sentences) == 1:
        typer.echo(description.sentences[0])
        return
    for sentence, score in zip(description.sentences, description.scores, strict=True):
        typer.echo(f"{score:8.3f}  {sentence}")


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


def draw(
    pairs: Annotated[list[str], typer.Argument(help="Ids as in pairs.jsonl; several are drawn row by row.")],
    out: Annotated[Path, out_file("PNG to write")],
    prepared: Prepared = PATHS.prepared,
    caches: Caches = None,
    cache: CacheAt = None,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", help="Of several pairs: masks, matches, semantics or maps; may be given again."),
    ] = None,
    imagery: Annotated[
        bool, typer.Option(help="Show the images; without them regions lie on grey, for imagery not to be passed on.")
    ] = True,
) -> None:
    """Draw the masks of pairs, and their matches and semantic regions where they have been computed.

    Example: sagecc draw test_000004 test_000007 --kind matches --kind maps --out pairs.png
    """
    from stages import draw as stage

    paths = project_paths(caches, cache, prepared=prepared)
    path = stage.run(pairs, paths, out, kinds=kind or (), imagery=imagery)
    tell(f"wrote {path}", out=out)


class InitCommand(TyperCommand):
    """`sagecc init`, whose help lists the profiles of the registered data sets."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the profiles below the options."""
        from pipeline.datasets.adapters.base import dataset_profiles

        with formatter.section("Profiles"):
            formatter.write_dl(
                [(name, f"{profile.title} ({profile.layout})") for name, profile in dataset_profiles().items()]
            )


def init(
    profile: Annotated[str, typer.Argument(help="A profile of the list below.")] = "synthetic",
    root: Annotated[Path | None, typer.Option("--root", help="The data set's folder.")] = None,
    allow_missing_images: Annotated[
        bool, typer.Option("--allow-missing-images", help="Work with the pairs whose images are there.")
    ] = False,
    mini: Annotated[
        bool, typer.Option("--mini", help="Use the mini models that ship instead of published checkpoints.")
    ] = False,
    changes: Set = None,
    out: Annotated[Path, out_file("File to write")] = PARAMS,
    force: Annotated[bool, typer.Option("--force", help="Overwrite without keeping a copy.")] = False,
) -> None:
    """Write params.yaml from a named profile, into this folder or that of --project.

    Example: sagecc init levir-cc --root ~/data/Levir-CC-dataset
    """
    from pipeline.files import keep_copy, write_text
    from pipeline.targets import is_stdout
    from stages.profiles import missing_files, next_command, profile_sections, render_profile, root_advice

    assignments = [*(changes or []), *(["prepare.allow_missing_images=true"] if allow_missing_images else [])]
    sections = profile_sections(profile, None if root is None else str(root), assignments, mini=mini)
    if not force and out.is_file() and not is_stdout(out):
        tell(f"kept the old settings as {keep_copy(out)}", out=out)
    write_text(out, render_profile(profile, sections))
    tell(f"wrote {out if is_stdout(out) else out.absolute()} from profile {profile}", out=out)
    command = next_command(sections)
    if unfit := root_advice(sections):
        tell(f"before `{command}` mend prepare.root: {unfit}", out=out)
    for path, advice in missing_files(sections):
        tell(f"before `{command}`: {path} is not there", out=out)
        tell(f"  {advice}", out=out)
    if command == "dvc repro" and not Path("dvc.yaml").is_file():
        command = "sagecc prepare, then the other stages; `dvc repro` runs them all where dvc.yaml of the repository is"
    tell(f"next: {command}", out=out)


def inspect(file: Annotated[Path, typer.Argument(help="A cache, such as artifacts/caches/scenes.h5.")]) -> None:
    """Print what a cache holds: its origin, and name, shape, dtype, unit and statistics of every field.

    Example: sagecc inspect artifacts/caches/scenes.h5
    """
    from rich.console import Console

    from pipeline.cache.inspect import describe, render

    Console().print(render(describe(file)))


def settings(
    section: Annotated[
        str | None, typer.Argument(help="A section or a part of one, such as masks.generator; none: all.")
    ] = None,
    params: Params = PARAMS,
    changes: Set = None,
) -> None:
    """List settings with value, default and meaning; * marks values that differ from the default.

    Where there is no params.yaml, the values are the defaults. Example: sagecc settings masks.generator
    """
    from rich.console import Console

    from cli.settings_list import print_settings

    print_settings(Settings(params, changes, optional=True).sections, section, Console(highlight=False))
