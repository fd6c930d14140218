from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import DataError
from tests.datasets import fakes
from tests.datasets.conftest import List
from tests.datasets.reference import reference


def test_lists_the_twin(tmp_path: Path, listed: List) -> None:
    listing, audit = listed("levir-cc", fakes.levir_cc(tmp_path))
    pairs = {pair.id: pair for pair in listing.pairs}
    assert {(pair.id, pair.split) for pair in listing.pairs} == {(stem, split) for stem, split, _ in fakes.LEVIR_PAIRS}
    assert pairs["train_000002"].before == "images/train/A/train_000002.png"
    assert pairs["train_000002"].after == "images/train/B/train_000002.png"
    assert pairs["train_000002"].captions == tuple(f"{text} ." for text in fakes.CHANGED)
    assert pairs["train_000001"].changed is None
    assert len(pairs["train_000004"].captions) == 3
    assert pairs["val_000001"].captions[0] == fakes.CHANGED[0]
    assert audit.count("image-without-caption") == 1


def test_captions_under_another_name(tmp_path: Path, listed: List) -> None:
    fakes.levir_cc(tmp_path, captions="mine.json")
    with pytest.raises(DataError, match=r"LevirCCcaptions\.json is not there") as caught:
        listed("levir-cc", tmp_path)
    assert caught.value.fix == "set prepare.captions to one of: mine.json"
    assert len(listed("levir-cc", tmp_path, captions="mine.json")[0].pairs) == 7


def test_missing_images_are_left_out(tmp_path: Path, listed: List) -> None:
    fakes.levir_cc(tmp_path)
    (tmp_path / "images" / "test" / "B" / "test_000001.png").unlink()
    listing, audit = listed("levir-cc", tmp_path)
    assert [entry.stem for entry in listing.left_out] == ["test_000001"]
    assert audit.count("caption-without-image") == 1
    assert audit.count("before-without-after") == 1


def test_without_images_the_captions_are_the_pairs(tmp_path: Path, listed: List) -> None:
    whole, _ = listed("levir-cc", fakes.levir_cc(tmp_path / "whole"))
    fakes.write(tmp_path / "LevirCCcaptions.json", {"images": fakes.levir_entries()})
    listing, audit = listed("levir-cc", tmp_path, images="none")
    assert listing.pairs == whole.pairs and not listing.left_out
    assert audit.count("caption-without-image") == 0


def test_root_without_the_layout(tmp_path: Path, listed: List) -> None:
    fakes.write(tmp_path / "LevirCCcaptions.json", {"images": fakes.levir_entries()})
    with pytest.raises(DataError, match="no images in images"):
        listed("levir-cc", tmp_path)


def test_caption_file_of_another_schema(tmp_path: Path, listed: List) -> None:
    fakes.levir_cc(tmp_path)
    (tmp_path / "LevirCCcaptions.json").write_text(json.dumps({"annotations": []}))
    with pytest.raises(DataError, match="another schema"):
        listed("levir-cc", tmp_path)


@pytest.mark.reference_data
def test_real_pairs(listed: List) -> None:
    listing, audit = listed("levir-cc", reference("levir_cc"))
    assert [pair.id for pair in listing.pairs] == ["train_000016", "train_000051", "train_000054"]
    assert len(listing.left_out) == audit.count("caption-without-image") == 8_145
    assert sum(entry.split == "val" for entry in listing.left_out) == 1_333
    assert all(len(pair.captions) == 5 and pair.changed for pair in listing.pairs)


def refusal(root: Path, listed: List, dataset: str = "levir-cc") -> DataError:
    with pytest.raises(DataError) as caught:
        _, audit = listed(dataset, root)
        audit.check({"caption-without-image"}, root)
    return caught.value


def test_a_root_above_or_below_the_layout_is_told_with_the_right_one(tmp_path: Path, listed: List) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    assert refusal(tmp_path, listed).fix == f"set prepare.root to {root}, where it is"
    assert refusal(root / "images", listed).fix == f"set prepare.root to {root}, where it is"
    fakes.dubai_cc(tmp_path / "dubai" / "data")
    fix = f"set prepare.root to {tmp_path}/dubai/data, which has Train_Dubai_CC.json"
    assert refusal(tmp_path / "dubai", listed, "dubai-cc").fix == fix


def test_a_folder_of_another_name_is_shown(tmp_path: Path, listed: List) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    (root / "images" / "val").rename(root / "images" / "validation")
    error = refusal(root, listed)
    assert error.what == (
        "there are captions for images in images/val/A, which is not there; images holds test, train, validation"
    )
    (root / "images" / "validation").rename(root / "images" / "Val")
    assert refusal(root, listed).fix == "rename images/Val/A to images/val/A: capitals count"


def test_a_caption_file_of_another_name_is_shown(tmp_path: Path, listed: List) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    path = root / "LevirCCcaptions.json"
    path = path.rename(root / "levirCCcaptions.json")
    fix = "set prepare.captions to it, if it is meant: `levirCCcaptions.json` is there: capitals count"
    assert refusal(root, listed).fix == fix
    path.rename(root / "captions.json")
    assert refusal(root, listed).fix == "set prepare.captions to one of: captions.json"
