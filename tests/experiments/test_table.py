from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.evaluation.bootstrap import Comparison
from pipeline.evaluation.scores import METRICS
from pipeline.experiments.table import Results, RowResult, draw_rows, markdown


def metrics(
    value: float, *, seeds: int = 2, changed: bool = True, pairs: int = 5, left_out: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return metrics.json of a run: scores of `value`, and `value ± 1` by seed."""

    def numbers(number: float) -> dict[str, float | None]:
        return dict.fromkeys(METRICS, number) | {"meteor": None, "s_m": None}

    rows = {"model": numbers(value), "constant": numbers(1.0)}
    if seeds > 1:
        rows["model_deviation"] = numbers(1.5)
    words = {"changed": rows if changed else None, "unchanged": None, "all": rows}
    flags = dict.fromkeys(("accuracy", "precision", "recall", "f1"), 90.0) | {"f1": None}
    own = {subset: found and numbers(value + 1) for subset, found in words.items() if found}
    return {
        "words": words,
        "change_flag": {"model": flags} if changed else {},
        "seeds": {} if seeds == 1 else {str(seed): {"words": own} for seed in range(seeds)},
        "pairs": {"changed": pairs * changed, "unchanged": 0, "all": pairs},
        "about": [{"split": "test", "seeds": list(range(seeds)), "left_out": list(left_out)}],
    }


def results(*rows: RowResult, seeds: tuple[int, ...] = (0, 1)) -> Results:
    return Results("mine", "", seeds, 1000, 0, rows)


FIRST = RowResult("first", ("a.b=1", "c.d=2"), folder="0123", metrics=metrics(10.0), seconds={0: 100.0, 1: 300.0})
BETTER = {name: Comparison(2.0, -0.5, 4.5, 0.125) for name in ("cider_d", "bleu_4")}
SECOND = RowResult("a | b", (), folder="4567", metrics=metrics(12.0), seconds={0: 1.26}, above=BETTER)
FAILED = RowResult("third", (), reason="no; where: x; fix: y", failed=True)
LEFT = RowResult("fourth", (), reason="not run")


def test_a_row_is_a_line() -> None:
    lines = markdown(results(FIRST, SECOND, FAILED, LEFT)).splitlines()
    assert lines[0] == "# mine" and lines[2].startswith("Split: test. Seeds: 0, 1; scores are mean ±")
    assert lines[6:10] == [
        "| first | 10.00 ± 1.50 | 10.00 ± 1.50 | – | – | 90.00 | – | – | 200 |",
        "| a \\| b | 12.00 ± 1.50 | 12.00 ± 1.50 | – | – | 90.00 | 0.125 | 0.125 | 1.3 |",
        "| third | failed | – | – | – | – | – | – | – |",
        "| fourth | not run | – | – | – | – | – | – | – |",
    ]
    assert "**third** no; where: x; fix: y" in lines
    assert "| a \\| b | +2.00 (-0.50 to +4.50), 0.125 | +2.00 (-0.50 to +4.50), 0.125 |" in lines
    assert "| first | 1 | 11.00 | 11.00 | 11.00 | 11.00 | – | 11.00 | 11.00 | – |" in lines
    assert "| first | 0123 | `a.b=1`, `c.d=2` |" in lines
    assert "## Scores: unchanged pairs (0)" not in lines


def test_rows_say_what_they_could_not_describe() -> None:
    part = replace(SECOND, metrics=metrics(12.0, pairs=3, left_out=("p9", "p4")))
    other = replace(SECOND, label="third", metrics=metrics(12.0, pairs=4, left_out=("p4",)))
    table = results(part, FIRST, other)
    text = markdown(table)
    assert "a | b: 2, third: 1. Rows are compared with each other on the pairs that all of them describe" in text
    assert "## Scores: all pairs (5)" in text
    document = table.document()
    assert document["bootstrap"]["left_out"] == ["p4", "p9"] and document["pairs"]["all"] == 5
    assert [row["pairs"]["all"] for row in document["rows"]] == [3, 5, 4]
    assert [row["left_out"] for row in document["rows"]] == [["p9", "p4"], [], ["p4"]]
    assert "skipped" not in markdown(results(FIRST, SECOND))


def test_rows_are_compared_with_the_first_one_too_where_it_is_another() -> None:
    third = replace(SECOND, label="third", first={name: Comparison(5.0, 1.0, 9.0, 0.01) for name in BETTER})
    two = markdown(results(FIRST, replace(SECOND, first=BETTER)))
    assert "## Against the row above" in two and "## Against the first row" not in two
    three = markdown(results(FIRST, replace(SECOND, first=BETTER), third))
    assert "## Against the first row" in three and "| third | +5.00 (+1.00 to +9.00), 0.010 |" in three
    rows = results(FIRST, third).document()["rows"]
    assert rows[0]["against_first_row"] is None and rows[1]["against_first_row"]["bleu_4"]["p"] == 0.01


def test_one_seed_has_no_deviation_and_is_listed(tmp_path: Path) -> None:
    found = results(replace(FIRST, metrics=metrics(10.0, seeds=1)), seeds=(0,))
    text = markdown(found)
    assert "±" not in text and "| first | 0 | 10.00 |" in text
    row = found.document()["rows"][0]
    assert row["scores"]["all"]["bleu_4"] == {"mean": 10.0, "deviation": None}
    assert row["by_seed"]["changed"]["0"]["cider_d"] == 10.0
    assert draw_rows(found, tmp_path / "table.png").is_file()


def test_no_changed_pairs_and_no_rows_at_all_can_be_told(tmp_path: Path) -> None:
    for found in (results(replace(FIRST, metrics=metrics(10.0, changed=False))), results(FAILED, LEFT)):
        text = markdown(found)
        assert "changed pairs (" not in text and "| row | CIDEr-D, changed" in text
        assert found.document()["rows"][0]["label"] in ("first", "third")
        with Image.open(draw_rows(found, tmp_path / "table.png")) as picture:
            assert picture.width == 1200


def test_times_are_not_in_the_document(tmp_path: Path) -> None:
    slow = replace(FIRST, seconds={0: 9e9, 1: 1.0})
    assert results(slow).document() == results(FIRST).document()
    assert results(FIRST, FAILED).times() == {"first": {"0": 100.0, "1": 300.0}, "third": {}}
    one, two = (draw_rows(results(row, SECOND, FAILED), tmp_path / "a.png").read_bytes() for row in (FIRST, slow))
    assert one == two
