from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.adapters.levir_mci import read_mask, read_masks
from pipeline.errors import DataError
from tests.datasets import fakes
from tests.datasets.conftest import List


def test_masks_are_attached_by_stem(tmp_path: Path, listed: List) -> None:
    listing, audit = listed("levir-mci", fakes.levir_mci(tmp_path))
    for pair in listing.pairs:
        assert pair.change_mask == f"images/{pair.split}/label/{pair.id}.png"
    assert audit.report(())["mask-without-pair"]["listed"] == ["images/train/label/train_000077.png"]
    shown = {pair.id: bool(read_masks(tmp_path, pair, 1)["change_mask"].any()) for pair in listing.pairs}
    contradicting = {"train_000001", "train_000002"}
    assert shown == {stem: changed != (stem in contradicting) for stem, _, changed in fakes.LEVIR_PAIRS}


def test_a_pair_without_mask(tmp_path: Path, listed: List) -> None:
    fakes.levir_mci(tmp_path)
    (tmp_path / "images" / "val" / "label" / "val_000001.png").unlink()
    listing, audit = listed("levir-mci", tmp_path)
    (pair,) = (pair for pair in listing.pairs if pair.split == "val")
    assert pair.change_mask is None
    assert read_masks(tmp_path, pair, 1) == {}
    assert audit.count("pair-without-mask") == 1


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 128, 255)])
def test_both_ways_of_storing_classes(tmp_path: Path, values: tuple[int, ...]) -> None:
    index = np.random.default_rng(0).integers(0, 3, (8, 8), dtype=np.uint8)
    stored = np.array(values, dtype=np.uint8)[index]
    assert np.array_equal(read_mask(fakes.save(tmp_path / "a.png", stored)), index)


@pytest.mark.parametrize("values", [(0, 3), (1, 128), (0, 200)])
def test_values_that_are_no_class(tmp_path: Path, values: tuple[int, ...]) -> None:
    mask = np.array([values], dtype=np.uint8)
    with pytest.raises(DataError, match="the change mask has the values") as caught:
        read_mask(fakes.save(tmp_path / "a.png", mask))
    assert "label_rgb" in str(caught.value.fix)
