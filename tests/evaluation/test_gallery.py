from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.records import Pair
from pipeline.errors import DataError
from pipeline.evaluation.gallery import choose_examples, draw_examples


def pair(index: int, changed: bool | None) -> Pair:
    return Pair(id=f"p{index}", split="test", before="a.png", after="b.png", captions=("a road",), changed=changed)


@pytest.mark.parametrize(
    ("changed", "unchanged", "count", "expected"),
    [(20, 20, 8, (6, 2)), (3, 20, 8, (3, 5)), (20, 0, 8, (8, 0)), (0, 2, 8, (0, 2)), (1, 1, 0, (0, 0))],
)
def test_three_changed_pairs_for_each_unchanged_one(
    changed: int, unchanged: int, count: int, expected: tuple[int, int]
) -> None:
    pairs = [pair(index, True) for index in range(changed)] + [pair(100 + i, False) for i in range(unchanged)]
    chosen = choose_examples(pairs, count)
    flags = [example.changed for example in chosen]
    assert (flags.count(True), flags.count(False)) == expected
    assert len({example.id for example in chosen}) == len(chosen)


def test_examples_are_spread_over_the_split() -> None:
    chosen = choose_examples([pair(index, True) for index in range(100)], 4)
    assert [example.id for example in chosen] == ["p0", "p25", "p50", "p75"]


def test_picture_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / name)
    pairs = [pair(index, True) for index in range(3)]
    captions = {
        example.id: "a very long caption that goes on and on and has to be broken somewhere" for example in pairs
    }
    one, two = (draw_examples(pairs, captions, tmp_path, tmp_path / name).read_bytes() for name in ("1", "2"))
    assert one == two
    with Image.open(tmp_path / "1") as picture:
        assert picture.size == (1000, 640)


def test_an_image_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the image") as caught:
        draw_examples([pair(0, True)], {"p0": "x"}, tmp_path, tmp_path / "out.png")
    assert "a.png" in str(caught.value)
    assert not (tmp_path / "out.png").exists()
