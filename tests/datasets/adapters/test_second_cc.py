from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.adapters.second_cc import (
    SECOND_CC_CLASSES,
    decode_palette,
    read_masks,
    read_semantic_map,
    resize_nearest,
)
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
    assert [bool(mask["semantic_before"].any()) for mask in masks] == [True, False, True, False]
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


COLOURS = np.array([colour for _, colour in SECOND_CC_CLASSES], dtype=np.uint8)


def test_every_class_comes_back() -> None:
    index = np.random.default_rng(0).integers(0, 7, (9, 13), dtype=np.uint8)
    decoded = decode_palette(COLOURS[index])
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, index)


def test_names_follow_their_colours() -> None:
    assert dict(SECOND_CC_CLASSES)["building"] == (128, 0, 0)
    names = [name for name, _ in SECOND_CC_CLASSES]
    pixel = np.array([[[0, 255, 0], [0, 128, 0], [128, 128, 128]]], dtype=np.uint8)
    assert [names[i] for i in decode_palette(pixel)[0]] == ["tree", "low vegetation", "non-vegetated ground"]


@pytest.mark.parametrize("colour", [(0, 0, 0), (254, 255, 255), (0, 192, 0), (255, 255, 0), (129, 0, 0)])
def test_unknown_colour_names_itself_and_its_place(colour: tuple[int, int, int]) -> None:
    rgb = np.full((4, 6, 3), 255, dtype=np.uint8)
    rgb[2, 5] = rgb[3, 0] = colour
    with pytest.raises(DataError, match=r"row 2, column 5") as caught:
        decode_palette(rgb, "sem/A/00001.png")
    assert str(colour) in caught.value.what
    assert caught.value.where == "sem/A/00001.png"


def test_a_blend_of_two_classes_is_refused() -> None:
    """What bilinear resizing makes of the border between building and water."""
    blend = ((COLOURS[5].astype(int) + COLOURS[4]) // 2).astype(np.uint8)
    with pytest.raises(DataError, match="no class of SECOND-CC"):
        decode_palette(np.stack([[COLOURS[5], blend, COLOURS[4]]]))


@pytest.mark.parametrize("size", [(8, 8), (3, 5), (16, 12), (1, 1)])
def test_resizing_invents_no_class_and_takes_the_nearest(size: tuple[int, int]) -> None:
    index = np.random.default_rng(1).integers(0, 7, (8, 6), dtype=np.uint8)
    resized = resize_nearest(index, size)
    assert resized.shape == size
    for row in range(size[0]):
        for column in range(size[1]):
            source = int((row + 0.5) * 8 / size[0]), int((column + 0.5) * 6 / size[1])
            assert resized[row, column] == index[source]


def test_resizing_to_the_same_size_changes_nothing() -> None:
    index = np.arange(48, dtype=np.uint8).reshape(8, 6)
    assert np.array_equal(resize_nearest(index, (8, 6)), index)
