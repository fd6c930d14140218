from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.datasets.pair_lists import Row, read_pair_list
from pipeline.errors import DataError

ROOT = Path("/data/own")


def rows(folder: Path, name: str, text: str) -> tuple[Row, ...]:
    (folder / name).write_text(text, encoding="utf-8")
    return read_pair_list(folder / name, ROOT).rows


def csv_row(folder: Path, columns: str, cells: str) -> Row:
    (row,) = rows(folder, "pairs.csv", f"before,after,{columns}\na.png,b.png,{cells}\n")
    return row


def json_row(folder: Path, **values: Any) -> Row:
    (row,) = rows(folder, "pairs.jsonl", json.dumps({"before": "a.png", "after": "b.png", **values}))
    return row


@pytest.mark.parametrize("name", ["p.csv", "p.CSV", "p.tsv", "p.txt"])
def test_tables_by_any_of_their_endings(tmp_path: Path, name: str) -> None:
    assert rows(tmp_path, name, "before\tafter\na.png\tb.png\n") == (Row(2, None, "a.png", "b.png", (), None, None),)


@pytest.mark.parametrize("name", ["p.jsonl", "p.ndjson"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    text = '\n{"Before": "a.png", "After": "b.png", "Captions": ["x", "y"]}\n'
    assert rows(tmp_path, name, text) == (Row(2, None, "a.png", "b.png", ("x", "y"), None, None),)


@pytest.mark.parametrize(
    ("cell", "flag"),
    [("0", False), ("1.0", True), ('"1,0"', True), ("TRUE", True), ("no", False), ("", None), ("NaN", None)],
)
def test_flags_as_spreadsheets_write_them(tmp_path: Path, cell: str, flag: bool | None) -> None:
    assert csv_row(tmp_path, "changed", cell).changed is flag


@pytest.mark.parametrize(("value", "flag"), [(1, True), (0.0, False), (None, None), (float("nan"), None), (True, True)])
def test_flags_of_json(tmp_path: Path, value: Any, flag: bool | None) -> None:
    assert json_row(tmp_path, changed=value).changed is flag


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ("a house", ("a house",)),
        ("NaN", ()),
        ('"[""a house"", ""a tree""]"', ("a house", "a tree")),
        ("\"['a house', 'a tree']\"", ("a house", "a tree")),
        ("[a house]", ("[a house]",)),
    ],
)
def test_captions_of_cells(tmp_path: Path, cell: str, captions: tuple[str, ...]) -> None:
    assert csv_row(tmp_path, "caption", cell).captions == captions


def test_captions_of_several_columns(tmp_path: Path) -> None:
    assert csv_row(tmp_path, "caption_10,caption_2,caption", "c,b,a").captions == ("a", "b", "c")
    assert csv_row(tmp_path, "caption,caption", "a,b").captions == ("a", "b")
    assert json_row(tmp_path, caption=None, captions=["a"]).captions == ("a",)


@pytest.mark.parametrize("path", ["A\\a.png", " A/a.png ", "./A/a.png", "/data/own/A/a.png"])
def test_paths_that_are_plainly_meant(tmp_path: Path, path: str) -> None:
    assert json_row(tmp_path, before=path).before == "A/a.png"


@pytest.mark.parametrize(
    ("values", "what", "advice"),
    [
        ({"before": ""}, "the row names no image in `before`", "fill in `before`, or remove the row"),
        ({"before": None}, "the row names no image in `before`", "fill in `before`, or remove the row"),
        ({"before": 7}, "`before` is no path: `7`", "write the path as a text"),
        ({"caption": 7}, "`caption` is neither a text nor a list of texts: `7`", "between double quotes"),
        ({"captions": ["a", None]}, '`captions` is neither a text nor a list of texts: `["a", null]`', "texts"),
        ({"split": "dev"}, "`dev` is no split", "write val if that is meant"),
        ({"split": "trian"}, "`trian` is no split", "write train if that is meant"),
        ({"split": 3}, "`3` is no split", "splits are train, val and test"),
        ({"changed": "perhaps"}, "`perhaps` is no change flag", "0 or no (unchanged), 1 or yes"),
        ({"changed": 2}, "`2` is no change flag", "0 or no"),
        ({"id": 1.5}, "`id` is no text: `1.5`", "write it as a text or whole number"),
        ({"description": "x"}, "unknown column `description`: it has the keys", "rename it to `caption`"),
        ({"subset": "val"}, "unknown column `subset`", "rename it to `split`"),
        ({"splitt": "val"}, "unknown column `splitt`", "rename it to `split`"),
        ({"latitude": 3}, "unknown column `latitude`", "remove it"),
    ],
)
def test_what_cannot_be_read_is_shown_with_the_cure(tmp_path: Path, values: Any, what: str, advice: str) -> None:
    with pytest.raises(DataError) as caught:
        json_row(tmp_path, **values)
    assert what in caught.value.what
    assert advice in (caught.value.fix or "")
    assert str(caught.value.where).endswith("pairs.jsonl, line 1")


@pytest.mark.parametrize(
    ("text", "what", "advice"),
    [
        ('{"image1": "a.png", "image2": "b.png"}', "no column `before`", "rename `image1` to `before`"),
        ('[{"before": "a.png",\n "after": "b.png"}]', "not a JSON object", "the file is one JSON document"),
        ('["a.png", "b.png"]', "not a JSON object but a list of 2", "write one JSON object per line"),
        ("before,after\n", "not a JSON object: `before,after`", "the file is no JSON: name a table .csv"),
    ],
)
def test_json_lines_that_are_none(tmp_path: Path, text: str, what: str, advice: str) -> None:
    with pytest.raises(DataError) as caught:
        rows(tmp_path, "pairs.jsonl", text)
    assert what in caught.value.what
    assert advice in (caught.value.fix or "")


def test_blank_rows(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("before,after\r\n,\r\na.png,b.png\r\n,\r\n")
    pairs = read_pair_list(tmp_path / "pairs.csv", ROOT)
    assert (len(pairs.rows), pairs.blank) == (1, (2, 4))
    (tmp_path / "pairs.csv").write_text("before,after\r\n,\r\n")
    with pytest.raises(DataError, match="no row below its header"):
        read_pair_list(tmp_path / "pairs.csv", ROOT)
