from __future__ import annotations

from pathlib import Path

from tests.datasets import fakes
from tests.datasets.conftest import List


def test_lists_the_twin_whose_stems_repeat(tmp_path: Path, listed: List) -> None:
    listing, audit = listed("whu-cdc", fakes.whu_cdc(tmp_path))
    assert [(pair.id, pair.before) for pair in listing.pairs] == [
        ("train_1", "images/train/A/1.png"),
        ("2", "images/train/A/2.png"),
        ("val_1", "images/val/A/1.png"),
        ("test_1", "images/test/A/1.png"),
    ]
    assert [pair.captions[0] for pair in listing.pairs[:3:2]] == [
        "a house is built beside the road .",
        "there is no difference .",
    ]
    assert all(pair.changed is None for pair in listing.pairs)
    assert audit.count("split-contradiction") == 0


def test_also_under_the_name_of_levir_cc(tmp_path: Path, listed: List) -> None:
    fakes.whu_cdc(tmp_path)
    (tmp_path / "whuCCcaptions.json").rename(tmp_path / "LevirCCcaptions.json")
    assert len(listed("whu-cdc", tmp_path)[0].pairs) == 4
