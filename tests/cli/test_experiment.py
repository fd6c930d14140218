from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from pipeline.errors import SageccError, SettingsError
from tests.worlds import experiment_data as data

pytestmark = pytest.mark.usefixtures("one_thread")

INPUTS = ["--prepared", "prepared", "--caches", ".", "--cache", "graph=graph"]
"""Where `experiment_data.make` writes."""


@pytest.fixture
def ready(project: Path, no_java: None) -> Path:
    data.make(project)
    return project


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["experiment", *arguments])
    if isinstance(result.exception, SageccError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_the_list_names_the_tables_of_the_paper() -> None:
    lines = call("--list").output.splitlines()
    assert [line.split()[0] for line in lines] == ["table4", "table5", "table6", "table7", "table8", "seeds"]
    assert lines[0].endswith("baseline, + MCL, + SG, + SCA, + CGR")


def test_a_file_becomes_a_table(ready: Path) -> None:
    Path("own.yaml").write_text("grid: {train.captioner.decoder.layers: [1, 2]}\nset: [train.captioner.fusion=none]\n")
    arguments = ["own.yaml", *INPUTS, "--set", "train.epochs=1", "--seeds", "3", "--resamples", "20"]
    assert "1  layers=1: to do in artifacts/experiments/own/" in call(*arguments, "--dry-run").output
    assert not Path("artifacts/experiments").exists()
    output = call(*arguments, "--rows", "2").output
    assert "| layers=1 | not run |" in output and "wrote artifacts/experiments/own/table.md" in output
    document = json.loads(Path("artifacts/experiments/own/table.json").read_text())
    assert document["seeds"] == [3] and document["bootstrap"]["resamples"] == 20
    assert "2  layers=2: done in" in call(*arguments, "--dry-run").output


@pytest.mark.parametrize("name", ["table4", "table5", "table6", "table7", "table8", "seeds"])
def test_the_tables_of_the_paper_can_be_planned(ready: Path, name: str) -> None:
    output = call(name, *INPUTS, "--dry-run").output
    assert "cannot be run" not in output and "to do" in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "which experiment"),
        (["table3"], "did you mean"),
        (["none.yaml"], "cannot read the experiment"),
        (["seeds", "--seeds", "1,x"], "train.seeds.1"),
        (["seeds", "--seeds", "1,1"], "each seed may appear once"),
        (["seeds", "--rows", "a"], "--rows 1,3"),
        (["seeds", "--rows", "2"], "no row 2"),
        (["seeds", "--set", "trian.epochs=1"], "unknown section"),
    ],
)
def test_slips_are_named(ready: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        call(*arguments)
    assert said in str(caught.value)
    assert not Path("artifacts").exists()
