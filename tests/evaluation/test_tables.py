from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from pipeline.errors import OutputError
from pipeline.evaluation.charts import draw_scores
from pipeline.evaluation.report import Report
from pipeline.evaluation.scores import METRICS
from pipeline.evaluation.tables import markdown, score_table


def numbers(value: float | None) -> dict[str, float | None]:
    return dict.fromkeys(METRICS, value)


ROWS = {
    "model": {**numbers(40.125), "meteor": None, "s_m": None},
    "model_deviation": {**numbers(1.5), "meteor": None, "s_m": None},
    "constant": numbers(20.0),
    "true_flag": numbers(1 / 3),
}
REPORT = Report(
    scores={"words": {"changed": ROWS, "unchanged": None, "all": ROWS}},
    change_flag={"model": {"accuracy": 75.0, "precision": None, "recall": 0.0, "f1": None}},
    seeds={},
    pairs={"changed": 1234, "unchanged": 0, "all": 1234},
    constants={"changed": "a road", "unchanged": None, "all": "a road"},
    notes=["Compare captioners on changed pairs."],
)


def test_markdown_puts_notes_and_changed_pairs_first() -> None:
    lines = markdown(REPORT).splitlines()
    assert lines[2] == "Compare captioners on changed pairs."
    headings = [line for line in lines if line.startswith("## ")]
    assert headings[:2] == ["## Words: changed pairs (1,234)", "## Words: all pairs (1,234)"]
    place = lines.index(headings[0])
    assert lines[place + 2].count("|") == lines[place + 4].count("|") == len(METRICS) + 2
    assert lines[place + 4].startswith("| model | 40.12 ± 1.50 |") and lines[place + 4].endswith("| – |")
    assert lines[place + 5].startswith("| best constant sentence | 20.00 |")
    assert "| model | 75.00 | – | 0.00 | – |" in lines


def test_csv_keeps_full_numbers_and_leaves_missing_ones_empty() -> None:
    table = list(csv.DictReader(io.StringIO(score_table(REPORT))))
    assert [(line["family"], line["subset"], line["row"]) for line in table[:2]] == [
        ("words", "changed", "model"),
        ("words", "changed", "model_deviation"),
    ]
    assert len(table) == 8 and table[0]["meteor"] == ""
    assert float(table[3]["bleu_4"]) == 1 / 3


def test_the_picture_is_the_same_bytes_again(tmp_path: Path) -> None:
    first, second = draw_scores(REPORT, tmp_path / "a.png"), draw_scores(REPORT, tmp_path / "b.png")
    assert first.read_bytes() == second.read_bytes() and first.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("a file, not a folder")
    with pytest.raises(OutputError):
        draw_scores(REPORT, tmp_path / "plots" / "a.png")
