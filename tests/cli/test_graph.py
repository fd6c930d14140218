from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli.graph import app
from pipeline.errors import OutputError, SageccError
from tests.stages.graph_data import make, prepare, run

RUNNER = CliRunner()


def call(*arguments: str) -> str:
    result = RUNNER.invoke(app, list(arguments))
    if isinstance(result.exception, SageccError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    captions = ("a house is built on the grass", "houses are built along the road", "a road appears on the bareland")
    return run(make(), prepare(folder / "prepared", {"train": captions, "val": captions}), folder / "graph")


def test_show_lists_and_draws(graph: Path, tmp_path: Path) -> None:
    text = call("show", "--graph", str(graph), "--out", str(tmp_path / "g.svg"))
    assert "road" in text
    assert "build-along" in text
    assert ">house</text>" in (tmp_path / "g.svg").read_text()


def test_neighbours(graph: Path) -> None:
    text = call("neighbours", "roads", "--graph", str(graph))
    assert "road as head: 1" in " ".join(text.split())
    assert "build-along" in text
    with pytest.raises(SageccError, match="no entity"):
        call("neighbours", "harbour", "--graph", str(graph))


def test_export(graph: Path, tmp_path: Path) -> None:
    call("export", "--graph", str(graph), "--out", str(tmp_path / "g.graphml"))
    call("export", "--graph", str(graph), "--out", str(tmp_path / "g.json"), "--format", "jsonld")
    assert json.loads((tmp_path / "g.json").read_text())["@graph"]
    with pytest.raises(OutputError):
        call("export", "--graph", str(graph), "--out", str(tmp_path / "g.dot"))


def test_extract_needs_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.txt").write_text("a house is built on the grass\nthere is no difference\n")
    text = call("extract", "captions.txt", "--engine", "rules", "--out", "triples.jsonl")
    assert "1 triple from 1 of 2 captions (rules)" in text
    assert json.loads((tmp_path / "triples.jsonl").read_text())["relation"] == "build-on"
    assert "cost nothing" in call("extract", "captions.txt", "--dry-run", "--out", "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


def test_settings_can_be_changed_without_a_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.txt").write_text("a house is built on the grass\na tree is removed\n")
    dry = ("extract", "captions.txt", "--engine", "llm", "--dry-run", "--out", "x.jsonl")
    with pytest.raises(SageccError, match="no language model is named") as caught:
        call(*dry)
    assert "--set graph.build.llm.model=NAME" in str(caught.value)
    assert "distinct captions to ask: 2, answered already: 0; requests: 1" in call(
        *dry, "--set", "graph.build.llm.model=m"
    )
    with pytest.raises(SageccError, match="cannot read the settings"):
        call(*dry, "--params", "absent.yaml")


def test_a_picture_of_another_form_is_refused_before_anything_is_listed(graph: Path, tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["show", "--graph", str(graph), "--out", str(tmp_path / "g.bmp")])
    assert isinstance(result.exception, OutputError)
    assert result.output == ""


def test_coverage(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("graph: {}\n")
    prepared = ("--graph", str(graph), "--prepared", str(graph.parent / "prepared"))
    text = call("coverage", *prepared, "--out", "coverage.json")
    assert "with a triple of the graph" in text
    assert json.loads((tmp_path / "coverage.json").read_text())["all_triples"] == 9
    with pytest.raises(SageccError, match="the split test has no captions"):
        call("coverage", *prepared, "--split", "test")


@pytest.mark.parametrize("command", [[], ["show"], ["neighbours"], ["export"], ["extract"], ["coverage"]], ids=str)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    whole = typer.Typer(rich_markup_mode=None)
    whole.add_typer(app, name="graph")
    result = RUNNER.invoke(whole, ["graph", *command, "--help"])
    assert result.exit_code == 0
    assert "Example: sagecc graph" in " ".join(result.output.split())
