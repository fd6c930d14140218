from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.datasets.records import DatedImage, Pair, read_prepared, write_prepared
from pipeline.errors import DataError


def test_images_stand_in_the_order_of_their_units(tmp_path: Path) -> None:
    pairs = [
        Pair(
            id=name, split="train", before=f"A/{name}.png", after=f"B/{name}.png", sha256={"before": "0", "after": "1"}
        )
        for name in ("b", "a")
    ]
    write_prepared(tmp_path, "folder", str(tmp_path / "images"), pairs)
    data = read_prepared(tmp_path)
    root = (tmp_path / "images").resolve()
    assert [pair.id for pair in data.pairs] == ["a", "b"]
    assert list(data.images()) == [
        DatedImage(0, "a before", root / "A" / "a.png", "0"),
        DatedImage(1, "a after", root / "B" / "a.png", "1"),
        DatedImage(2, "b before", root / "A" / "b.png", "0"),
        DatedImage(3, "b after", root / "B" / "b.png", "1"),
    ]


def test_a_data_set_without_pairs_or_without_images_is_refused_where_they_are_needed(tmp_path: Path) -> None:
    write_prepared(tmp_path, "folder", str(tmp_path), [], images=False)
    data = read_prepared(tmp_path)
    with pytest.raises(DataError, match="no pairs"):
        data.require_pairs()
    with pytest.raises(DataError, match="without its images"):
        data.require_images()
