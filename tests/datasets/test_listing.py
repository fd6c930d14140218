from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.datasets.audit import Audit
from pipeline.datasets.caption_files import CaptionEntry
from pipeline.datasets.listing import Layout, Listing, join, list_images, split_layout
from pipeline.datasets.records import SPLITS, Split
from pipeline.datasets.settings import MISMATCH_KINDS
from pipeline.errors import DataError

WHERE = Path("captions.json")


def layout(**stems: str) -> Layout:
    """Build a layout with split folders: split → stems of whole pairs, separated by spaces."""

    def folder(split: Split, date: str) -> dict[str, str]:
        return {stem: f"images/{split}/{date}/{stem}.png" for stem in stems.get(split, "").split()}

    return Layout({s: folder(s, "A") for s in SPLITS}, {s: folder(s, "B") for s in SPLITS}, split_folders=True)


def joined(entries: list[CaptionEntry], images: Layout) -> tuple[Listing, dict[str, int]]:
    audit = Audit()
    listing = join(entries, images, audit, WHERE)
    return listing, {kind: audit.count(kind) for kind in MISMATCH_KINDS if audit.count(kind)}


def test_joins_by_stem_whatever_the_order() -> None:
    entries = [CaptionEntry("b", "train", None, ("of b",)), CaptionEntry("a", "train", None, ("of a",))]
    listing, notes = joined(entries, layout(train="a b"))
    assert {pair.id: (pair.before, pair.after, pair.captions) for pair in listing.pairs} == {
        "a": ("images/train/A/a.png", "images/train/B/a.png", ("of a",)),
        "b": ("images/train/A/b.png", "images/train/B/b.png", ("of b",)),
    }
    assert notes == {}


def test_split_comes_from_entry_then_folder_then_images() -> None:
    entries = [CaptionEntry("a", "train"), CaptionEntry("b", None, "val"), CaptionEntry("c")]
    listing, _ = joined(entries, layout(train="a", val="b", test="c"))
    assert [pair.split for pair in listing.pairs] == ["train", "val", "test"]


def test_no_split_at_all() -> None:
    with pytest.raises(DataError, match="a is given to no split"):
        joined([CaptionEntry("a")], layout(train="b"))


def test_caption_without_image_and_image_without_caption() -> None:
    listing, notes = joined([CaptionEntry("a", "train", None, ("x",))], layout(train="b"))
    assert listing.pairs == []
    assert [entry.captions for entry in listing.left_out] == [("x",)]
    assert notes == {"caption-without-image": 1, "image-without-caption": 1}


def test_a_name_given_twice_keeps_the_first() -> None:
    listing, notes = joined(
        [CaptionEntry("a", "train", None, ("1",)), CaptionEntry("a", "train", None, ("2",))], layout(train="a")
    )
    assert [pair.captions for pair in listing.pairs] == [("1",)]
    assert notes == {"duplicate-name": 1}


def test_split_and_folder_contradict() -> None:
    listing, notes = joined([CaptionEntry("a", "train", "val")], layout(train="a"))
    assert [pair.split for pair in listing.pairs] == ["train"]
    assert notes == {"split-contradiction": 1}


def test_images_in_the_folder_of_another_split() -> None:
    listing, notes = joined([CaptionEntry("a", "train")], layout(val="a"))
    assert [(pair.split, pair.before) for pair in listing.pairs] == [("train", "images/val/A/a.png")]
    assert notes == {"split-contradiction": 1}


def test_one_image_given_to_two_splits() -> None:
    listing, notes = joined([CaptionEntry("a", "train"), CaptionEntry("a", "val")], layout(val="a"))
    assert [(pair.id, pair.split) for pair in listing.pairs] == [("val_a", "val")]
    assert notes == {"split-contradiction": 1, "caption-without-image": 1}


def test_one_stem_in_two_splits_with_images_of_their_own() -> None:
    listing, notes = joined(
        [CaptionEntry("1", "train"), CaptionEntry("1", "val"), CaptionEntry("2", "val")], layout(train="1", val="1 2")
    )
    assert [(pair.id, pair.before) for pair in listing.pairs] == [
        ("train_1", "images/train/A/1.png"),
        ("val_1", "images/val/A/1.png"),
        ("2", "images/val/A/2.png"),
    ]
    assert notes == {}


def test_shared_folders_hold_one_pair_per_stem() -> None:
    stems = {"a": "2000/a.tif"}
    images = Layout(dict.fromkeys(SPLITS, stems), dict.fromkeys(SPLITS, stems), split_folders=False)
    listing, notes = joined([CaptionEntry("a", "train"), CaptionEntry("a", "val")], images)
    assert [pair.split for pair in listing.pairs] == ["train"]
    assert notes == {"split-contradiction": 1}


def test_half_pairs_are_noted(tmp_path: Path) -> None:
    for name in ("A/a.png", "A/b.png", "B/b.png", "B/c.png"):
        path = tmp_path / "images" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    audit = Audit()
    split_layout(tmp_path, "images/{split}/A", "images/{split}/B", audit)
    report = audit.report(())
    assert report["before-without-after"]["listed"] == ["images/train/A/a.png"]
    assert report["after-without-before"]["listed"] == ["images/train/B/c.png"]


def test_two_files_of_one_stem(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    audit = Audit()
    assert list_images(tmp_path, ".", audit) == {"a": "a.jpg"}
    assert audit.report(())["duplicate-name"]["listed"] == ["a.png beside a.jpg"]


def test_no_images_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in"):
        split_layout(tmp_path, "images/{split}/A", "images/{split}/B", Audit())


def caption_error(entries: list[CaptionEntry], images: Layout) -> DataError:
    audit = Audit()
    join(entries, images, audit, WHERE)
    with pytest.raises(DataError) as caught:
        audit.check({"caption-without-image"}, WHERE)
    return caught.value


def test_a_caption_whose_image_differs_in_capitals() -> None:
    error = caption_error([CaptionEntry("Train_1", "train"), CaptionEntry("b", "train")], layout(train="train_1 b"))
    assert error.what == "a caption is for the image Train_1, which is not there, but images/train/A/train_1.png is"
    assert error.fix == "write the names as the files have them: capitals count"


def test_captions_for_none_of_the_images() -> None:
    error = caption_error([CaptionEntry("1", "train"), CaptionEntry("2", "val")], layout(train="train_1", val="val_2"))
    assert error.what.startswith("no caption is for one of the images: it is for 1, say, and an image is images/train/")
    assert "and 1 more" in error.what
    assert error.fix == "give caption file and images the same names"


def test_a_caption_without_anything_near_has_the_advice_of_its_kind() -> None:
    error = caption_error([CaptionEntry("a", "train"), CaptionEntry("b", "train")], layout(train="a"))
    assert error.what == "1 captioned pairs without both images: train b"


@pytest.mark.parametrize(
    ("folder", "root", "advice"),
    [
        ("Levir/images/train/A", ".", "set prepare.root to {folder}/Levir, which has images/train/A"),
        ("images/train/A", "images", "set prepare.root to {folder}, which has images/train/A"),
        ("Images/Train/a", ".", "rename Images/Train/a to images/train/A: capitals count"),
        (
            "other",
            ".",
            "set prepare.root to the folder that holds the data set's own layout, of PNG, JPEG or TIFF images",
        ),
    ],
)
def test_a_layout_without_images_is_told_with_what_is_near(tmp_path: Path, folder: str, root: str, advice: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError, match=r"no images in .*; the root holds") as caught:
        split_layout(tmp_path / root, "images/{split}/A", "images/{split}/B", Audit())
    assert caught.value.fix == advice.format(folder=tmp_path)


def test_of_two_endings_one_is_taken_and_the_cure_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).touch()
    audit = Audit()
    assert list_images(tmp_path, ".", audit) == {"a": "a.jpg"}
    with pytest.raises(DataError, match=r"the same name but for the ending: a\.jpg and a\.png") as caught:
        audit.check({"duplicate-name"}, tmp_path)
    assert caught.value.fix == "rename or remove one of them"
