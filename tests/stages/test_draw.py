from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.images import read_rgb
from pipeline.datasets.records import read_prepared
from pipeline.errors import DataError, SettingsError
from pipeline.paths import Paths
from stages import draw
from tests.vision.drawing.cache_data import SIZES, write_matches
from tests.worlds.region_data import write_masks, write_pairs, write_sam


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs, with masks and matches."""
    folder = tmp_path_factory.mktemp("draw")
    prepared = write_pairs(folder, SIZES)
    write_masks(folder / "masks.h5", prepared, write_sam(folder))
    write_matches(folder / "matches.h5", prepared, [(0, 1), (2, 3)])
    return folder


def drawn(folder: Path, pairs: list[str], **options: object) -> np.ndarray:
    paths = Paths.under(folder).with_caches(folder).at(prepared=prepared_of(folder))
    path = draw.run(pairs, paths, folder / "out.png", **options)
    with Image.open(path) as image:
        return np.asarray(image)


def prepared_of(folder: Path) -> Path:
    return next(path.parent for path in folder.rglob("pairs.jsonl"))


def ids(folder: Path) -> list[str]:
    return [pair.id for pair in read_prepared(prepared_of(folder)).pairs]


def test_several_pairs_are_rows_of_one_sheet(folder: Path) -> None:
    first, second = ids(folder)
    whole = drawn(folder, [first, second])
    assert drawn(folder, [first, second], kinds=["masks"]).shape[1] < whole.shape[1]
    assert drawn(folder, [first, second, first], kinds=["masks", "matches"]).shape[0] > whole.shape[0]


def test_imagery_may_be_left_out(folder: Path) -> None:
    data = read_prepared(prepared_of(folder))
    colours = {tuple(pixel) for pixel in read_rgb(data.root / data.pairs[0].before).reshape(-1, 3).tolist()}
    shown = {tuple(pixel) for pixel in drawn(folder, ids(folder)[:1]).reshape(-1, 3).tolist()}
    hidden = {tuple(pixel) for pixel in drawn(folder, ids(folder)[:1], imagery=False).reshape(-1, 3).tolist()}
    assert len(colours & shown) > 30
    assert len(colours & hidden) < 5


def test_what_cannot_be_drawn_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="no maps to draw"):
        drawn(folder, ids(folder), kinds=["maps"])
    with pytest.raises(SettingsError, match="of one pair everything"):
        drawn(folder, ids(folder)[:1], kinds=["masks"])
    with pytest.raises(DataError):
        drawn(folder, ["absent"])
