from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.evaluation.captions import check_pairs, read_captions

ROWS = [{"image_id": "x", "caption": "a road", "score": -1.5}, {"image_id": "y", "caption": ""}]


def folder(path: Path, seeds: dict[int, Any], provenance: Any = None) -> Path:
    for seed, rows in seeds.items():
        (path / f"seed-{seed}.json").write_text(json.dumps(rows))
    (path / "provenance.json").write_text(json.dumps({"split": "test"} if provenance is None else provenance))
    return path


def test_seeds_are_read_in_numeric_order_and_other_files_left_alone(tmp_path: Path) -> None:
    folder(tmp_path, {10: ROWS, 2: ROWS})
    (tmp_path / "seed-x.json").write_text("no")
    found = read_captions(tmp_path)
    assert found.split == "test" and list(found.seeds) == [2, 10]
    assert found.seeds[2] == {"x": "a road", "y": ""}
    check_pairs(found, ["y", "x"], tmp_path)


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
def test_damaged_captions(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_captions(folder(tmp_path, {0: rows}))
    assert "seed-0.json" in str(error.value) and "sagecc caption" in str(error.value)


def test_truncated_captions(tmp_path: Path) -> None:
    folder(tmp_path, {0: ROWS})
    (tmp_path / "seed-0.json").write_text('[{"image_id": "x", ')
    with pytest.raises(DataError, match="not valid JSON"):
        read_captions(tmp_path)


def test_no_captions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_captions(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no seed-<n>\.json"):
        read_captions(folder(tmp_path, {}))


@pytest.mark.parametrize("provenance", [{"split": "tset"}, {"seed": 1}, ["test"], {"split": ["test"]}])
def test_a_provenance_without_a_split(tmp_path: Path, provenance: Any) -> None:
    with pytest.raises(DataError, match="names no split"):
        read_captions(folder(tmp_path, {0: ROWS}, provenance))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(["x"], "'test' does not hold: 1, first 'y'"), (["x", "y", "z"], "without a caption: 1, first 'z'")],
)
def test_captions_of_other_pairs(tmp_path: Path, pairs: list[str], message: str) -> None:
    found = read_captions(folder(tmp_path, {0: ROWS}))
    with pytest.raises(DataError, match=message) as error:
        check_pairs(found, pairs, tmp_path)
    assert "seed-0.json" in str(error.value)
