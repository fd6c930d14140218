from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import with_overrides
from pipeline.errors import SettingsError
from pipeline.experiments.rows import BUILTIN, builtin, read_experiment
from stages.settings import parse_sections


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_of_rows(tmp_path: Path) -> None:
    text = (
        "title: Widths\nseeds: [4, 5]\nset: [train.epochs=2]\nrows:\n- {label: small, set: [a.b=1]}\n- label: as is\n"
    )
    found = read_experiment(write(tmp_path, text))
    assert (found.name, found.title, found.seeds, found.set) == ("mine", "Widths", (4, 5), ("train.epochs=2",))
    assert [(row.label, row.set) for row in found.all_rows] == [("small", ("a.b=1",)), ("as is", ())]


def test_a_grid_is_written_out(tmp_path: Path) -> None:
    text = (
        "name: other\n"
        "grid:\n"
        "  train.learning_rate: [0.001, 0.00001]\n"
        "  train.captioner.scene.width: [8]\n"
        "  train.captioner.decoder.width: [8, 16]\n"
        "  models.graph_encoder.widths: [[4, 8]]\n"
    )
    found = read_experiment(write(tmp_path, text))
    rows = found.all_rows
    assert found.name == "other" and len(rows) == 4
    assert rows[1].label == (
        "learning_rate=0.001, train.captioner.scene.width=8, train.captioner.decoder.width=16, widths=[4, 8]"
    )
    document = with_overrides({}, rows[2].set)
    assert document["train"]["learning_rate"] == 1e-5 and document["models"]["graph_encoder"]["widths"] == [4, 8]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows: [{label: a}]\nseed: [1]\n", "did you mean `seeds`"),
        ("rows: [{label: a, sets: [x.y=1]}]\n", "experiment.rows.0.sets"),
        ("rows: [{label: a}, {label: a}]\n", "2 rows are called 'a'"),
        ("rows: [{set: [train.epochs=1]}]\n", "experiment.rows.0.label"),
        ("rows: []\n", "either `rows` or a `grid`"),
        ("grid: {}\n", "either `rows` or a `grid`"),
        ("title: nothing\n", "either `rows` or a `grid`"),
        ("rows: [{label: a}]\ngrid: {train.epochs: [1]}\n", "either `rows` or a `grid`"),
        ("grid: {train.epochs: []}\n", "no values for `train.epochs`"),
        ("grid: {train.epochs: [1, 1]}\n", "2 rows are called 'epochs=1'"),
        ("grid: {train.epochs: 3}\n", "experiment.grid.train.epochs"),
        ("seeds: []\nrows: [{label: a}]\n", "experiment.seeds"),
        ("name: a/b\nrows: [{label: a}]\n", "experiment.name"),
        ('rows: [{label: "a\\nb"}]\n', "one line"),
        ("rows: [\n", "the experiment file is not valid YAML"),
        ("- a\n- b\n", "must be a mapping"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        read_experiment(path)
    assert said in str(caught.value)
    assert caught.value.where.startswith(str(path)) and caught.value.fix


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read the experiment") as caught:
        read_experiment(tmp_path / "none.yaml")
    assert caught.value.where == str(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", BUILTIN)
def test_the_rows_of_the_paper_are_settings(name: str) -> None:
    experiment = builtin(name)
    seen = set()
    for row in experiment.all_rows:
        sections = parse_sections(with_overrides({}, [*experiment.set, *row.set]))
        seen.add(tuple(section.model_dump_json() for section in sections.values()))
    assert len(seen) == len(experiment.all_rows)


def test_an_unknown_name_brings_up_the_nearest() -> None:
    with pytest.raises(SettingsError) as caught:
        builtin("table44")
    assert caught.value.fix == "did you mean `table4`?"
    with pytest.raises(SettingsError) as caught:
        builtin("nothing")
    assert "table8, seeds, or a file" in caught.value.fix
