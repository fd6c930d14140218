from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.adapters.folder import draw_splits
from pipeline.datasets.audit import Audit
from pipeline.datasets.listing import Listing
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


def sites(root: Path, *, suffix: str = ".png") -> Path:
    """Write images of two sites under the same names, and a later date of one of them."""
    rng = np.random.default_rng(0)
    for name in ("s1/before", "s1/after", "s2/before", "s2/after", "s1/later"):
        fakes.save(root / f"{name}{suffix}", fakes.picture(rng))
    return root


def listed_csv(root: Path, listed: List, text: str, **changes: object) -> tuple[Listing, Audit]:
    (root / "pairs.csv").write_text(text, encoding="utf-8")
    return listed("folder", root, captions="pairs.csv", **{"folder": {"split": "train"}, **changes})


def test_the_same_file_names_in_a_folder_per_site(tmp_path: Path, listed: List) -> None:
    text = "before,after,caption\ns1/before.png,s1/after.png,x\ns2/before.png,s2/after.png,y\n"
    listing, audit = listed_csv(sites(tmp_path), listed, text)
    assert [(pair.id, pair.captions) for pair in listing.pairs] == [("s1/before", ("x",)), ("s2/before", ("y",))]
    assert audit.count("duplicate-name") == 0


def test_ids_are_the_stems_where_these_differ_and_both_paths_where_one_date_is_shared(
    tmp_path: Path, listed: List
) -> None:
    rows = ["s1/before.png,s1/after.png", "s1/before.png,s1/later.png", "s1/after.png,s1/later.png"]
    listing, _ = listed_csv(sites(tmp_path), listed, "\n".join(["before,after", *rows]))
    names = ["s1/before-s1/after", "s1/before-s1/later", "after"]
    assert [pair.id for pair in listing.pairs] == names
    again, _ = listed_csv(tmp_path, listed, "\n".join(["before,after", *rows[::-1]]))
    assert sorted(pair.id for pair in again.pairs) == sorted(names)


def test_a_given_id_stays_and_one_given_twice_is_told_with_the_cure(tmp_path: Path, listed: List) -> None:
    text = "id,before,after\nbefore,s1/before.png,s1/after.png\n,s2/before.png,s2/after.png\n"
    listing, audit = listed_csv(sites(tmp_path), listed, text)
    assert [pair.id for pair in listing.pairs] == ["before", "s2/before"]
    _, audit = listed_csv(
        tmp_path, listed, "id,before,after\nx,s1/before.png,s1/after.png\nx,s2/before.png,s2/after.png\n"
    )
    with pytest.raises(DataError, match="two rows have the id x, and other images") as caught:
        audit.check({"duplicate-name"}, tmp_path)
    assert caught.value.where == f"{tmp_path}/pairs.csv, lines 2 and 3"
    assert (caught.value.fix or "").startswith("give each row its own `id`")


def test_a_row_per_caption(tmp_path: Path, listed: List) -> None:
    row = "s1/before.png,s1/after.png"
    listing, audit = listed_csv(
        sites(tmp_path), listed, f"before,after,caption,split\n{row},x,\n{row},y,\n{row},x z,val\n",
        folder=COLUMN,
    )  # fmt: skip
    assert [(pair.captions, pair.split) for pair in listing.pairs] == [(("x", "y", "x z"), "val")]
    assert audit.count("duplicate-name") == 0
    with pytest.raises(DataError, match="two rows name the same images and differ in `split`: train and val") as caught:
        listed_csv(tmp_path, listed, f"before,after,split\n{row},train\n{row},val\n")
    assert caught.value.where == "pairs.csv, lines 2 and 3"


def test_blank_rows_are_counted(tmp_path: Path, listed: List) -> None:
    listing, audit = listed_csv(sites(tmp_path), listed, "before,after\ns1/before.png,s1/after.png\n,\n")
    assert len(listing.pairs) == 1
    assert audit.items("row-blank") == ("pairs.csv, line 3",)


@pytest.mark.parametrize(
    ("before", "guess"),
    [
        ("S1/before.PNG", "`s1/before.png` is there: capitals count"),
        ("own/s1/before.png", "`s1/before.png` is there: paths are relative to prepare.root"),
        ("s1/before.tif", "`s1/before.png` is there: the ending differs"),
        ("s1", "it is a folder: name a file in it"),
        ("later.png", "`s1/later.png` is there: paths are relative to prepare.root and name the folder"),
    ],
)
def test_an_image_that_is_not_there_is_told_with_what_is_near(
    tmp_path: Path, listed: List, before: str, guess: str
) -> None:
    _, audit = listed_csv(sites(tmp_path), listed, f"before,after\n{before},s1/after.png\n")
    with pytest.raises(DataError) as caught:
        audit.check({"caption-without-image"}, tmp_path)
    assert caught.value.what == f"the image {before} of pairs.csv is not there; {guess}"
    assert caught.value.fix == "correct the list, or the names of the files"


def test_names_in_another_unicode_form_are_the_same(tmp_path: Path, listed: List) -> None:
    composed, parts = "caf\u00e9", "cafe\u0301"
    rng = np.random.default_rng(0)
    fakes.save(tmp_path / "A" / f"{parts}.png", fakes.picture(rng))
    fakes.save(tmp_path / "B" / f"{composed}.png", fakes.picture(rng))
    listing, _ = listed_csv(tmp_path, listed, f"before,after\nA/{composed}.png,B/{parts}.png\n")
    assert (listing.pairs[0].before, listing.pairs[0].after) == (f"A/{parts}.png", f"B/{composed}.png")
    listing, _ = listed("folder", tmp_path)
    assert [pair.id for pair in listing.pairs] == [composed]


@pytest.mark.parametrize(
    ("folders", "advice"),
    [
        (("im1", "im2", "label"), "set prepare.folder.before: im1 and prepare.folder.after: im2"),
        (("after", "before"), "set prepare.folder.before: before and prepare.folder.after: after"),
        (("2011", "2015"), "set prepare.folder.before: 2011 and prepare.folder.after: 2015"),
        (("own/A", "own/B"), "set prepare.root to {root}/own"),
        (("one", "another"), "set prepare.folder.before and prepare.folder.after to the folders of the two dates"),
    ],
)
def test_folders_of_other_names_are_shown(tmp_path: Path, listed: List, folders: tuple[str, ...], advice: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        listed("folder", tmp_path)
    names = sorted({folder.partition("/")[0] for folder in folders})
    assert caught.value.what == f"no images in A and B: the root holds {', '.join(names)}"
    assert caught.value.fix == advice.format(root=tmp_path)


def test_a_list_that_the_settings_do_not_name(tmp_path: Path, listed: List) -> None:
    (sites(tmp_path) / "pairs.csv").touch()
    with pytest.raises(DataError) as caught:
        listed("folder", tmp_path)
    assert caught.value.fix == "set prepare.captions to the list of pairs: pairs.csv"


@pytest.mark.parametrize(
    ("captions", "advice"),
    [
        ("Pairs.csv", "set prepare.captions to it, if it is meant: `pairs.csv` is there: capitals count"),
        ("pairs", "set prepare.captions to it, if it is meant: `pairs.csv` is there: the ending differs"),
        ("other.txt", "set prepare.captions to one of: pairs.csv"),
        ("deep.csv", "set prepare.root to {root}/sub, where it is"),
    ],
)
def test_a_list_that_is_not_there(tmp_path: Path, listed: List, captions: str, advice: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "pairs.csv").touch()
    (tmp_path / "sub" / "deep.csv").touch()
    with pytest.raises(DataError, match=f"the caption file {captions} is not there") as caught:
        listed("folder", tmp_path, captions=captions)
    assert caught.value.fix == advice.format(root=tmp_path)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (("A/P0.png", "B/p0.png"), "the image has no other date of the same name, but B/p0.png is there"),
        (("A/p0_pre.png", "B/p0_post.png"), "no image has an other date of the same name: the folders hold"),
    ],
)
def test_images_whose_other_date_has_another_name(
    tmp_path: Path, listed: List, names: tuple[str, ...], what: str
) -> None:
    for name in names:
        fakes.save(tmp_path / name, fakes.picture(np.random.default_rng(0)))
    _, audit = listed("folder", tmp_path)
    with pytest.raises(DataError) as caught:
        audit.check({"before-without-after"}, tmp_path)
    assert what in caught.value.what
    assert (caught.value.fix or "").startswith("give both dates of a pair files of the same name")
