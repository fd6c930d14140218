from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.second_cc import read_masks, read_semantic_map
from pipeline.errors import DataError
from tests.datasets import fakes
from tests.datasets.conftest import List


def test_lists_the_twin(tmp_path: Path, listed: List) -> None:
    listing, audit = listed("second-cc", fakes.second_cc(tmp_path))
    assert [(pair.id, pair.split) for pair in listing.pairs] == [
        ("00001", "train"),
        ("00002", "train"),
        ("00003", "val"),
        ("00004", "test"),
    ]
    first = listing.pairs[0]
    assert (first.before, first.after) == ("train/rgb/A/00001.png", "train/rgb/B/00001.png")
    assert (first.semantic_before, first.semantic_after) == ("train/sem/A/00001.png", "train/sem/B/00001.png")
    masks = [read_masks(tmp_path, pair, 1) for pair in listing.pairs]
    assert [bool(found["semantic_before"].any()) for found in masks] == [True, False, True, False]
    assert audit.count("pair-without-mask") == 0


def test_a_map_of_one_date_is_missing(tmp_path: Path, listed: List) -> None:
    fakes.second_cc(tmp_path)
    (tmp_path / "train" / "sem" / "B" / "00001.png").rename(tmp_path / "train" / "sem" / "B" / "00009.png")
    listing, audit = listed("second-cc", tmp_path)
    assert listing.pairs[0].semantic_before is not None
    assert listing.pairs[0].semantic_after is None
    assert set(read_masks(tmp_path, listing.pairs[0], 1)) == {"semantic_before"}
    assert audit.report(())["pair-without-mask"]["listed"] == ["00001: no semantic_after"]
    assert audit.report(())["mask-without-pair"]["listed"] == ["train/sem/B/00009.png"]


def test_a_map_with_a_blended_colour_names_file_colour_and_place(tmp_path: Path) -> None:
    rgb = np.full((8, 8, 3), 255, dtype=np.uint8)
    rgb[3, 4] = (64, 128, 64)
    path = fakes.save(tmp_path / "sem.png", rgb)
    with pytest.raises(DataError, match=r"\(64, 128, 64\) at row 3, column 4") as caught:
        read_semantic_map(path)
    assert caught.value.where == str(path)
