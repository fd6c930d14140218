from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.datasets.adapters.dubai_cc import CAPTION_FILES
from pipeline.datasets.caption_files import read_captions
from pipeline.errors import DataError
from tests.datasets import fakes
from tests.datasets.conftest import List
from tests.datasets.reference import reference


def test_lists_the_twin(tmp_path: Path, listed: List) -> None:
    listing, audit = listed("dubai-cc", fakes.dubai_cc(tmp_path))
    assert [(pair.id, pair.split) for pair in listing.pairs] == [
        ("1x4", "train"),
        ("5x31", "train"),
        ("6x26", "train"),
        ("8x34", "val"),
        ("2x9", "test"),
    ]
    first = listing.pairs[0]
    assert (first.before, first.after) == ("500_2000/1x4.tif", "500_2010/1x4.tif")
    assert first.captions[0] == "Nothing has changed."
    assert first.changed is None
    assert audit.count("image-without-caption") == 0


def test_without_images_the_captions_are_the_pairs(tmp_path: Path, listed: List) -> None:
    whole, _ = listed("dubai-cc", fakes.dubai_cc(tmp_path))
    for folder in ("500_2000", "500_2010"):
        shutil.rmtree(tmp_path / folder)
    assert listed("dubai-cc", tmp_path, images="none")[0].pairs == whole.pairs


def test_a_missing_file_is_noted(tmp_path: Path, listed: List) -> None:
    fakes.dubai_cc(tmp_path)
    (tmp_path / "Test_Dubai_CC.json").unlink()
    listing, audit = listed("dubai-cc", tmp_path)
    assert len(listing.pairs) == 4
    assert audit.report(())["caption-file-missing"]["listed"] == ["Test_Dubai_CC.json"]
    assert audit.count("image-without-caption") == 1


def test_no_caption_file(tmp_path: Path, listed: List) -> None:
    fakes.dubai_cc(tmp_path)
    for name in CAPTION_FILES.values():
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match="none of the caption files"):
        listed("dubai-cc", tmp_path)


def test_caption_files_in_a_folder_of_their_own(tmp_path: Path, listed: List) -> None:
    fakes.dubai_cc(tmp_path)
    (tmp_path / "json").mkdir()
    for name in CAPTION_FILES.values():
        (tmp_path / name).rename(tmp_path / "json" / name)
    assert len(listed("dubai-cc", tmp_path, captions="json")[0].pairs) == 5


def test_an_image_given_to_two_files(tmp_path: Path, listed: List) -> None:
    fakes.dubai_cc(tmp_path)
    train = json.loads((tmp_path / "Train_Dubai_CC.json").read_text())
    (tmp_path / "Validation_Dubai_CC.json").write_text(json.dumps({"images": train["images"][:1]}))
    listing, audit = listed("dubai-cc", tmp_path)
    assert [pair.split for pair in listing.pairs if pair.id == "1x4"] == ["train"]
    # Once because the entry itself says train, once because the image is taken.
    assert audit.count("split-contradiction") == 2


@pytest.mark.reference_data
def test_real_captions() -> None:
    counts = {split: read_captions(reference("dubai_cc", CAPTION_FILES[split])) for split in ("train", "val")}
    assert {split: len(entries) for split, entries in counts.items()} == {"train": 300, "val": 50}
    stems = [entry.stem for entries in counts.values() for entry in entries]
    assert len(set(stems)) == 350
    for split, entries in counts.items():
        assert all(entry.split == split and len(entry.captions) == 5 and entry.changed is None for entry in entries)
