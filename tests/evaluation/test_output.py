from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.records import Pair
from pipeline.errors import DataError, OutputError
from pipeline.evaluation.bootstrap import Interval
from pipeline.evaluation.output import (
    check_pairs,
    choose_examples,
    draw_examples,
    draw_scores,
    left_out_note,
    markdown,
    read_captions,
    score_table,
)
from pipeline.evaluation.report import Report
from pipeline.evaluation.scores import METRICS

ROWS = [{"image_id": "x", "caption": "a road", "score": -1.5}, {"image_id": "y", "caption": ""}]


def folder(path: Path, seeds: dict[int, Any], provenance: Any = None) -> Path:
    for seed, rows in seeds.items():
        (path / f"seed-{seed}.json").write_text(json.dumps(rows))
    (path / "provenance.json").write_text(json.dumps({"split": "test"} if provenance is None else provenance))
    return path


def test_seeds_are_read_in_numeric_order_and_other_files_left_alone(tmp_path: Path) -> None:
    folder(tmp_path, {10: ROWS, 2: ROWS})
    (tmp_path / "seed-x.json").write_text("no")
    captions = read_captions(tmp_path)
    assert captions.split == "test" and list(captions.seeds) == [2, 10]
    assert captions.seeds[2] == {"x": "a road", "y": ""}
    check_pairs(captions, ["y", "x"], tmp_path)
    assert captions.left_out == () and left_out_note(captions, 2) is None


def test_skipped_pairs_need_no_captions_and_every_other_pair_does(tmp_path: Path) -> None:
    skipped = {"split": "test", "left_out": {"z": ["scenes"]}}
    captions = read_captions(folder(tmp_path, {0: ROWS}, skipped))
    check_pairs(captions, ["x", "y", "z"], tmp_path)
    note = left_out_note(captions, 3)
    assert note is not None and "1 of the 3 test pairs (33.3%)" in note and "the other 2" in note
    for pairs, message in (
        (["x", "y", "z", "w"], "without a caption: 1, first 'w'"),
        (["x", "y"], "left-out pairs that the split 'test' does not hold: 1, first 'z'"),
        (["x", "z"], "captions of pairs that the split 'test' does not hold: 1, first 'y'"),
    ):
        with pytest.raises(DataError, match=message):
            check_pairs(captions, pairs, tmp_path)
    captions = read_captions(folder(tmp_path, {0: ROWS}, {"split": "test", "left_out": {"y": ["scenes"]}}))
    with pytest.raises(DataError, match="lists as left out: 1, first 'y'"):
        check_pairs(captions, ["x", "y"], tmp_path)


@pytest.mark.parametrize("left_out", [["z"], "z", 1, None])
def test_left_out_pairs_in_another_form_are_refused(tmp_path: Path, left_out: Any) -> None:
    with pytest.raises(DataError, match="left-out pairs in another form") as error:
        read_captions(folder(tmp_path, {0: ROWS}, {"split": "test", "left_out": left_out}))
    assert "provenance.json" in str(error.value.where)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, ROWS[0]], "'x' is captioned twice"),
        ({"x": "a road"}, "a list is wanted"),
        ([{"image_id": "x"}], "`image_id` and a `caption`"),
        ([{"image_id": 7, "caption": "a road"}], "`image_id` and a `caption`"),
        (["a road"], "`image_id` and a `caption`"),
    ],
)
def test_damaged_captions_are_refused(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_captions(folder(tmp_path, {0: rows}))
    assert "seed-0.json" in str(error.value) and "sagecc caption" in str(error.value)


def test_truncated_captions_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, {0: ROWS})
    (tmp_path / "seed-0.json").write_text('[{"image_id": "x", ')
    with pytest.raises(DataError, match="not valid JSON"):
        read_captions(tmp_path)


def test_a_folder_without_captions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_captions(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no seed-<n>\.json"):
        read_captions(folder(tmp_path, {}))


@pytest.mark.parametrize("provenance", [{"split": "tset"}, {"seed": 1}, ["test"], {"split": ["test"]}])
def test_a_provenance_without_a_split_is_refused(tmp_path: Path, provenance: Any) -> None:
    with pytest.raises(DataError, match="names no split"):
        read_captions(folder(tmp_path, {0: ROWS}, provenance))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(["x"], "'test' does not hold: 1, first 'y'"), (["x", "y", "z"], "without a caption: 1, first 'z'")],
)
def test_captions_of_other_pairs_are_refused(tmp_path: Path, pairs: list[str], message: str) -> None:
    captions = read_captions(folder(tmp_path, {0: ROWS}))
    with pytest.raises(DataError, match=message) as error:
        check_pairs(captions, pairs, tmp_path)
    assert "seed-0.json" in str(error.value)


def numbers(value: float | None) -> dict[str, float | None]:
    return dict.fromkeys(METRICS, value)


TABLE = {
    "model": {**numbers(40.125), "meteor": None, "s_m": None},
    "model_deviation": {**numbers(1.5), "meteor": None, "s_m": None},
    "constant": numbers(20.0),
    "true_flag": numbers(1 / 3),
}
REPORT = Report(
    scores={"words": {"changed": TABLE, "unchanged": None, "all": TABLE}},
    change_flag={"model": {"accuracy": 75.0, "precision": None, "recall": 0.0, "f1": None}},
    seeds={},
    pairs={"changed": 1234, "unchanged": 0, "all": 1234},
    intervals={"cider_d": Interval(38.04, 42.96), "bleu_4": Interval(39.0, 41.0)},
    constants={"changed": "a road", "unchanged": None, "all": "a road"},
    notes=["Compare captioners on changed pairs."],
)


def test_markdown_puts_notes_and_changed_pairs_first() -> None:
    lines = markdown(REPORT).splitlines()
    assert lines[2] == "Compare captioners on changed pairs."
    headings = [line for line in lines if line.startswith("## ")]
    assert headings[:2] == ["## Words: changed pairs (1,234)", "## Words: all pairs (1,234)"]
    row = lines.index(headings[0])
    assert lines[row + 2].count("|") == lines[row + 4].count("|") == len(METRICS) + 2
    assert lines[row + 4].startswith("| model | 40.12 ± 1.50 |") and lines[row + 4].endswith("| – |")
    assert lines[row + 5].startswith("| best constant sentence | 20.00 |")
    assert "| model | 75.00 | – | 0.00 | – |" in lines
    (said,) = (line for line in lines if line.startswith("Over resamples of these pairs 95 %"))
    assert said.endswith("lie within: CIDEr-D 38.0 to 43.0, BLEU-4 39.0 to 41.0.")
    assert lines.count(said) == 1 and row < lines.index(said) < lines.index(headings[1])
    assert "resamples" not in markdown(replace(REPORT, intervals={}))


def test_csv_keeps_full_numbers_and_leaves_missing_ones_empty() -> None:
    table = list(csv.DictReader(io.StringIO(score_table(REPORT))))
    assert [(line["family"], line["subset"], line["row"]) for line in table[:2]] == [
        ("words", "changed", "model"),
        ("words", "changed", "model_deviation"),
    ]
    assert len(table) == 8 and table[0]["meteor"] == ""
    assert float(table[3]["bleu_4"]) == 1 / 3


def test_the_chart_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    first, second = draw_scores(REPORT, tmp_path / "a.png"), draw_scores(REPORT, tmp_path / "b.png")
    assert first.read_bytes() == second.read_bytes() and first.read_bytes().startswith(b"\x89PNG")


def test_a_chart_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("a file, not a folder")
    with pytest.raises(OutputError):
        draw_scores(REPORT, tmp_path / "plots" / "a.png")


def pair(index: int, changed: bool | None) -> Pair:
    return Pair(id=f"p{index}", split="test", before="a.png", after="b.png", captions=("a road",), changed=changed)


@pytest.mark.parametrize(
    ("changed", "unchanged", "count", "expected"),
    [(20, 20, 8, (6, 2)), (3, 20, 8, (3, 5)), (20, 0, 8, (8, 0)), (0, 2, 8, (0, 2)), (1, 1, 0, (0, 0))],
)
def test_three_changed_pairs_for_each_unchanged_one(
    changed: int, unchanged: int, count: int, expected: tuple[int, int]
) -> None:
    pairs = [pair(index, True) for index in range(changed)] + [pair(100 + i, False) for i in range(unchanged)]
    chosen = choose_examples(pairs, count)
    flags = [example.changed for example in chosen]
    assert (flags.count(True), flags.count(False)) == expected
    assert len({example.id for example in chosen}) == len(chosen)


def test_examples_are_spread_over_the_split() -> None:
    chosen = choose_examples([pair(index, True) for index in range(100)], 4)
    assert [example.id for example in chosen] == ["p0", "p25", "p50", "p75"]


def test_the_examples_have_the_same_bytes_each_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / name)
    pairs = [pair(index, True) for index in range(3)]
    captions = {
        example.id: "a very long caption that goes on and on and has to be broken somewhere" for example in pairs
    }
    one, two = (draw_examples(pairs, captions, tmp_path, tmp_path / name).read_bytes() for name in ("1", "2"))
    assert one == two
    with Image.open(tmp_path / "1") as picture:
        assert picture.size == (1000, 640)


def test_an_image_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the image") as caught:
        draw_examples([pair(0, True)], {"p0": "x"}, tmp_path, tmp_path / "out.png")
    assert "a.png" in str(caught.value)
    assert not (tmp_path / "out.png").exists()
