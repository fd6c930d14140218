from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.adapters.folder import draw_splits
from pipeline.errors import DataError, SettingsError
from tests.datasets import fakes
from tests.datasets.conftest import List

COLUMN = {"split": "column"}


def test_two_folders_with_drawn_splits(tmp_path: Path, listed: List) -> None:
    listing, _ = listed("folder", fakes.two_folders(tmp_path))
    assert len(listing.pairs) == 10
    by_id = {pair.id: pair for pair in listing.pairs}
    assert (by_id["place_3"].before, by_id["place_3"].after) == ("A/place_3.png", "B/place_3.jpg")
    assert sorted(pair.split for pair in listing.pairs) == ["test", *["train"] * 8, "val"]
    again, _ = listed("folder", tmp_path)
    assert again.pairs == listing.pairs
    assert all(pair.captions == () and pair.changed is None for pair in listing.pairs)


def test_folders_of_other_names_all_in_one_split(tmp_path: Path, listed: List) -> None:
    fakes.two_folders(tmp_path)
    (tmp_path / "A").rename(tmp_path / "2001")
    (tmp_path / "B").rename(tmp_path / "2011")
    listing, _ = listed("folder", tmp_path, folder={"before": "2001", "after": "2011", "split": "test"})
    assert {pair.split for pair in listing.pairs} == {"test"}


def test_two_folders_have_no_split_column(tmp_path: Path, listed: List) -> None:
    with pytest.raises(SettingsError, match="two folders have no split column"):
        listed("folder", fakes.two_folders(tmp_path), folder=COLUMN)


def test_two_folders_with_a_caption_json(tmp_path: Path, listed: List) -> None:
    fakes.two_folders(tmp_path, pairs=2)
    entries = [fakes.entry(f"place_{number}", split, True, number) for number, split in enumerate(("train", "val"))]
    fakes.write(tmp_path / "captions.json", {"images": entries})
    listing, _ = listed("folder", tmp_path, captions="captions.json", folder=COLUMN)
    assert [(pair.id, pair.split, len(pair.captions)) for pair in listing.pairs] == [
        ("place_0", "train", 5),
        ("place_1", "val", 5),
    ]


def test_csv(tmp_path: Path, listed: List) -> None:
    listing, _ = listed("folder", fakes.csv_list(tmp_path), captions="pairs.csv", folder=COLUMN)
    assert [(pair.id, pair.split) for pair in listing.pairs] == [
        ("site0_2001", "train"),
        ("site1_2001", "train"),
        ("site2_2001", "val"),
        ("site3_2001", "test"),
    ]
    assert listing.pairs[0].captions == ("a house, with a garden, is built", "a house appears")
    assert listing.pairs[1].captions == ("a house, with a garden, is built",)
    assert all(pair.changed for pair in listing.pairs)


def test_jsonl(tmp_path: Path, listed: List) -> None:
    listing, _ = listed("folder", fakes.jsonl_list(tmp_path), captions="pairs.jsonl", folder=COLUMN)
    assert [(pair.id, pair.before, len(pair.captions)) for pair in listing.pairs] == [
        ("p0", "0.png", 1),
        ("p1", "1.png", 2),
    ]


def test_missing_image_and_repeated_id(tmp_path: Path, listed: List) -> None:
    fakes.csv_list(tmp_path)
    (tmp_path / "new" / "site0_2011.png").unlink()
    text = (tmp_path / "pairs.csv").read_text()
    (tmp_path / "pairs.csv").write_text(text + text.splitlines()[-1] + "\n")
    listing, audit = listed("folder", tmp_path, captions="pairs.csv")
    assert len(listing.pairs) == 3
    assert audit.report(())["caption-without-image"]["listed"][0].endswith("site0_2001: new/site0_2011.png")
    assert audit.report(())["duplicate-name"]["listed"] == ["site3_2001 in pairs.csv, lines 5 and 6"]


def listing_of(tmp_path: Path, listed: List, name: str, text: str | bytes, **changes: object) -> None:
    fakes.two_folders(tmp_path, pairs=1)
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    listed("folder", tmp_path, captions=name, **changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("before,caption\nA/place_0.png,x\n", "no column `after`"),
        ("before,after,colour\na,b,c\n", "unknown column `colour`: its header reads `before,after,colour`"),
        ("before,after\n", "list of pairs is empty"),
        ("before,after\nA/place_0.png\n", "more or fewer cells"),
        ("before,after\nA/place_0.png,B/place_0.tif,x\n", "more or fewer cells"),
        ('before,after\n"A/place_0.png,B/place_0.tif\n', "not valid CSV"),
        ("before,after\n/etc/passwd,B/place_0.tif\n", "is absolute"),
        ("before,after\nA/place_0.png,../B/place_0.tif\n", r"leaves its folder with `\.\.`"),
        ("before,after,split\nA/place_0.png,B/place_0.tif,dev\n", "is no split"),
        ("before,after,changed\nA/place_0.png,B/place_0.tif,perhaps\n", "is no change flag"),
        ("before,after,id\nA/place_0.png,B/place_0.tif,../x\n", "leaves its folder"),
        ("before,after\nA/caf\u00e9.png,B/place_0.tif\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_bad_csv(tmp_path: Path, listed: List, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        listing_of(tmp_path, listed, "pairs.csv", text)
    assert "pairs.csv" in str(caught.value.where)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('{"before": "a.png"}', "no column `after`"),
        ('{"before": 1, "after": "b.png"}', "`before` is no path"),
        ('{"before": "a.png", "after": "b.png", "captions": [1]}', "neither a text nor a list"),
        ('{"before": "a.png", "after": "b.png", "captions": {"x": 1}}', "neither a text nor a list"),
        ('{"before": "a.png", "after": "b.png", "id": [1]}', "`id` is no text"),
    ],
)
def test_bad_jsonl(tmp_path: Path, listed: List, line: str, message: str) -> None:
    good = json.dumps({"before": "A/place_0.png", "after": "B/place_0.tif"})
    with pytest.raises(DataError, match=message) as caught:
        listing_of(tmp_path, listed, "pairs.jsonl", f"{good}\n\n{line}\n")
    assert str(caught.value.where).endswith("pairs.jsonl, line 3")


def test_a_row_without_a_split(tmp_path: Path, listed: List) -> None:
    with pytest.raises(DataError, match="place_0 has no split"):
        listing_of(tmp_path, listed, "pairs.csv", "before,after\nA/place_0.png,B/place_0.tif\n", folder=COLUMN)


def test_a_list_of_another_kind(tmp_path: Path, listed: List) -> None:
    with pytest.raises(DataError, match=r"a \.csv, \.jsonl or caption \.json file"):
        listing_of(tmp_path, listed, "pairs.xlsx", "x")


NAMES = [f"place_{number}" for number in range(100)]


def test_shares_and_seed() -> None:
    splits = draw_splits(NAMES, 0.1, 0.2, seed=0)
    assert Counter(splits.values()) == {"train": 70, "val": 10, "test": 20}
    assert draw_splits(NAMES[::-1], 0.1, 0.2, seed=0) == splits
    assert draw_splits(NAMES, 0.1, 0.2, seed=1) != splits


def test_a_new_pair_moves_few_others() -> None:
    before, after = draw_splits(NAMES, 0.1, 0.2, seed=0), draw_splits([*NAMES, "new"], 0.1, 0.2, seed=0)
    assert sum(before[name] != after[name] for name in NAMES) <= 2


@given(st.sets(st.text(max_size=5), max_size=12), st.floats(0, 0.5), st.floats(0, 0.49))
def test_every_pair_has_a_split_and_training_is_never_empty(names: set[str], val: float, test: float) -> None:
    splits = draw_splits(names, val, test, seed=3)
    assert splits.keys() == names
    assert not names or "train" in splits.values()
