"""Commands in other folders than the project's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from cli.main import app
from cli.options import CacheAt
from cli.project import ProjectTyper, find_project
from pipeline.captioners.settings import DecoderSettings, SageCCSettings, SceneEncoderSettings
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.errors import SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.training.settings import TrainSettings
from stages import scenes, train
from tests.places import at
from tests.worlds.scene_data import make_data

PARAMS = "prepare: {}\nscenes: {}\n"
Call = Callable[..., list[str]]
ENGINE = EngineSettings(device="cpu")
TINY = SageCCSettings(
    scene=SceneEncoderSettings(width=16, blocks=1, heads=2, head_norm="group"),
    decoder=DecoderSettings(width=16, layers=1, heads=2),
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a folder below it."""
    folder = tmp_path / "my project"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "params.yaml").write_text(PARAMS)
    return folder


def test_project_is_found_from_any_folder_below_it(project: Path) -> None:
    for here in (project / "deep", project / "deep" / "er"):
        assert find_project(None, here) == project


def test_working_directory_with_settings_is_the_project(project: Path) -> None:
    assert find_project(None, project) is None
    # Also with settings that name no section, which above the working directory would not do.
    (project / "deep" / "params.yaml").write_text("train: {}\n")
    assert find_project(None, project / "deep") is None
    assert find_project(None, project / "deep" / "er") == project


def test_project_of_another_program_is_passed_over(project: Path) -> None:
    (project / "params.yaml").write_text("prepare: {split: 0.2}\ntrain: {seed: 1}\n")
    assert find_project(None, project / "deep") is None


def test_settings_that_are_given_lead_to_their_project(project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert find_project(None, elsewhere, Path("../my project/params.yaml")) == elsewhere / ".." / "my project"
    assert find_project(None, elsewhere, tmp_path / "other.yaml") is None


def test_project_that_is_given_counts_first_and_must_be_a_folder(project: Path, tmp_path: Path) -> None:
    assert find_project(tmp_path, project) == tmp_path
    with pytest.raises(SettingsError, match="no such folder"):
        find_project(tmp_path / "none", project)


def test_deleted_working_directory_needs_a_project(project: Path) -> None:
    assert find_project(project, None) == project
    with pytest.raises(SettingsError, match="no longer exists") as caught:
        find_project(None, None)
    assert "--project" in str(caught.value.fix)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command that tells its folder and its arguments, in a folder."""
    commands = ProjectTyper()

    @commands.callback()
    def every() -> None:
        """Take --project."""

    group = ProjectTyper(invoke_without_command=True)
    commands.add_typer(group, name="group")

    def show(
        file: Annotated[Path, typer.Argument()],
        others: Annotated[list[Path] | None, typer.Option("--other")] = None,
        cache: CacheAt = None,
        name: Annotated[str | None, typer.Option("--name", metavar="NAME|FILE.yaml")] = None,
        text: Annotated[str, typer.Option("--text")] = "text",
        standard: Annotated[Path, typer.Option("--standard")] = Path("artifacts"),
    ) -> None:
        typer.echo("\n".join(map(str, (Path.cwd(), file, *(others or ()), *(cache or ()), name, text, standard))))

    @group.callback()
    def top(context: typer.Context, folder: Annotated[Path, typer.Option("--folder")] = Path("artifacts")) -> None:
        if context.invoked_subcommand is None:
            typer.echo(f"{Path.cwd()}\n{folder}")

    commands.command()(show)
    commands.command("here", searched=False)(show)
    group.command("show")(show)

    def run(here: Path, *arguments: str) -> list[str]:
        monkeypatch.chdir(here)
        result = CliRunner().invoke(commands, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert Path.cwd() == here
        return [result.stderr.strip(), *result.stdout.splitlines()]

    return run


def test_command_runs_in_the_project_with_paths_of_the_users_folder(project: Path, call: Call) -> None:
    here = project / "deep"
    shown = call(
        here, "show", "a.png", "--other", "../b", "--other", "/c", "--cache", "masks=m.h5", "--name", "t.yaml",
        "--text", "t",
    )  # fmt: skip
    assert shown == [
        f"project: {project}",
        *map(
            str,
            (project, here / "a.png", here / "../b", "/c", f"masks={here / 'm.h5'}", here / "t.yaml", "t", "artifacts"),
        ),
    ]


def test_nothing_is_changed_in_the_project_folder_itself(project: Path, call: Call) -> None:
    assert call(project, "show", "a.png", "--name", "t.yaml") == [
        "",
        str(project),
        "a.png",
        "t.yaml",
        "text",
        "artifacts",
    ]


def test_names_and_standard_output_are_no_paths(project: Path, call: Call) -> None:
    shown = call(project / "deep", "show", "-", "--name", "table4", "--cache", "masks=")
    assert shown[2:5] == ["-", "masks=", "table4"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--project", "{}", "group", "show", "a"),
        ("group", "show", "a", "--project", "{}"),
        ("group", "--project", "{}", "show", "a"),
    ],
)
def test_option_may_stand_anywhere(project: Path, tmp_path: Path, call: Call, arguments: tuple[str, ...]) -> None:
    for given in (str(project), "my project"):
        shown = call(tmp_path, *(argument.format(given) for argument in arguments))
        assert shown[:3] == [f"project: {project}", str(project), str(tmp_path / "a")]


def test_group_without_command_runs_in_the_project_too(project: Path, call: Call) -> None:
    assert call(project / "deep", "group", "--folder", "g") == [
        f"project: {project}",
        str(project),
        str(project / "deep/g"),
    ]
    assert call(project / "deep", "group") == [f"project: {project}", str(project), "artifacts"]


def test_command_that_makes_projects_searches_none(project: Path, call: Call) -> None:
    assert call(project / "deep", "here", "a")[:3] == ["", str(project / "deep"), "a"]


def test_settings_are_listed_from_below_and_from_elsewhere(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "params.yaml").write_text("scenes: {batch_size: 77}\n")
    for here, options in ((project / "deep", []), (tmp_path, ["--project", "my project"])):
        monkeypatch.chdir(here)
        result = CliRunner().invoke(app, ["settings", "scenes", *options], catch_exceptions=False)
        assert "batch_size: 77" in result.output


def test_describe_works_from_elsewhere_with_the_weights_that_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for path in (folder, elsewhere):
        path.mkdir()
    monkeypatch.chdir(folder)
    prepared, settings = make_data(folder, 4, size=32)
    settings = settings.model_copy(update={"weights": "artifacts/pretrained/scenes-mini.safetensors"})
    build_vocabulary(["a road is built"], VocabularySettings(min_count=1), "folder").save(prepared / "vocabulary.json")
    paths = at(prepared=prepared)
    scenes.run(settings, paths, engine=ENGINE)
    train.run(TrainSettings(epochs=1, batch_size=2, captioner=TINY), paths, engine=ENGINE)
    (folder / "params.yaml").write_text("scenes: {}\ntrain: {seeds: [1]}\n")
    for image, name in (("A", "a.png"), ("B", "b.png")):
        shutil.copy(folder / "images" / image / "pair_000.png", elsewhere / name)
    monkeypatch.chdir(elsewhere)
    model = folder / "artifacts" / "models" / "baseline" / "seed-1"
    (tmp_path / "p.yaml").write_text("{}\n")
    sentences = set()
    for options in (["--project", "../project"], ["--params", "../p.yaml", "--model", str(model)]):
        result = CliRunner().invoke(app, ["describe", "a.png", "b.png", *options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        sentences.add(result.stdout)
    assert len(sentences) == 1
    assert sorted(path.name for path in elsewhere.iterdir()) == ["a.png", "b.png"]


def test_init_writes_into_this_folder_and_not_into_the_project_above(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project / "deep")
    result = CliRunner().invoke(app, ["init", "synthetic"], catch_exceptions=False)
    assert f"wrote {project / 'deep' / 'params.yaml'}" in result.output
    assert (project / "params.yaml").read_text() == PARAMS


def test_missing_settings_tell_where_they_were_sought_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="cannot read the settings") as caught:
        CliRunner().invoke(app, ["describe", "a.png", "b.png"], catch_exceptions=False)
    assert caught.value.where == str(tmp_path / "params.yaml")
    assert "--project DIR" in str(caught.value.fix)
    assert not list(tmp_path.iterdir())
