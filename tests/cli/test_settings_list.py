from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli.main import app
from cli.settings_list import print_settings
from pipeline.errors import SettingsError
from stages.settings import SECTIONS, own_settings, parse_sections


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(*arguments: str) -> list[str]:
    result = CliRunner().invoke(app, ["settings", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_every_key_is_one_line_where_there_is_no_file() -> None:
    lines = settings()
    sections = parse_sections({})
    keys = [setting.key for name, section in sections.items() for setting in own_settings(name, section, sections)]
    assert [line.split(":")[0].removeprefix("* ").strip() for line in lines if line[0] != "#"] == keys
    assert not any(line.startswith("*") for line in lines)
    assert [line.split(":")[0] for line in lines if line.startswith("# ") and "set by" not in line] == [
        f"# {name}" for name in SECTIONS
    ]
    assert not any(line.startswith("  masks.sam.") for line in lines) and "# masks.sam: set by models.sam" in lines


def test_values_of_the_file_and_of_the_options_are_marked() -> None:
    Path("params.yaml").write_text("train: {epochs: 3}\n")
    Path("other.yaml").write_text("caption: {beams: 9}\n")
    assert "* train.epochs: 3  (default: 50)  # passes over the training pairs (paper: at most 50)" in settings("train")
    assert any(line.startswith("* caption.beams: 9  (default: 3)") for line in settings("--params", "other.yaml"))
    lines = settings("train.epochs", "--set", "train.epochs=50")
    assert lines[1:] == ["  train.epochs: 50  # passes over the training pairs (paper: at most 50)"]


def test_a_part_of_a_section() -> None:
    lines = settings("masks.generator")
    assert lines[0].startswith("# masks: ") and all("masks.generator." in line for line in lines[1:])
    assert any(line.startswith("  masks.generator.points_per_side: 24") for line in lines)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("trian", "did you mean `train`?"),
        ("generator", "did you mean `masks.generator`?"),
        ("train.epoch", "did you mean `train.epochs`?"),
        ("masks.sam", "sagecc settings models.sam"),
        ("masks.sam.variant", "sagecc settings models.sam.variant"),
        ("qqqqqq", "one of: models, prepare"),
    ],
)
def test_an_unknown_section_names_the_nearest(name: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(name)
    assert said in str(caught.value.fix)


def test_a_file_that_is_named_must_be_there() -> None:
    with pytest.raises(SettingsError, match="cannot read the settings"):
        settings("--params", "absent.yaml")


@pytest.mark.parametrize("width", [30, 80, 160])
def test_meanings_are_wrapped_below_the_keys_on_a_terminal(width: int) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, color_system=None, width=width)
    print_settings(parse_sections({"train": {"epochs": 3}}), "train", console)
    lines = output.getvalue().splitlines()
    assert max(len(line) for line in lines) <= width
    text = " ".join(output.getvalue().split())
    assert "* train.epochs: 3" in text and "passes over the training pairs (paper: at most 50)" in text
