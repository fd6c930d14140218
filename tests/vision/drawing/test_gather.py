from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.images import read_rgb
from pipeline.errors import CacheError, DataError
from pipeline.vision.drawing.gather import _at_size, gather_pair
from pipeline.vision.drawing.pair import KINDS, draw_pair
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from tests.vision.drawing.cache_data import SIZES, semantic_arrays, write_cache, write_matches
from tests.worlds.region_data import mask_set, random_masks, write_masks, write_pairs, write_sam

PROMPTS = ["building . house", "road"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs with all caches: images 0 to 3 have 0, 1, 2 and 3 masks; the last one's semantics were skipped."""
    folder = tmp_path_factory.mktemp("gather")
    prepared = write_pairs(folder, SIZES)
    write_masks(folder / "masks.h5", prepared, write_sam(folder))
    write_matches(folder / "matches.h5", prepared, [(0, 1), (2, 3)])
    semantics = [semantic_arrays(unit) if unit < 3 else None for unit in range(4)]
    write_cache(folder / "semantics.h5", SEMANTICS, prepared, semantics, {"grounding": {"prompts": PROMPTS}})
    return folder


def test_everything_about_a_pair(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    caches = {name: folder / f"{name}.h5" for name in ("masks", "matches", "semantics")}
    pair = gather_pair(folder / "prepared", "pair_001", **caches)
    assert pair.kinds == KINDS
    assert pair.caption == "pair_001"
    assert pair.names == ("building", "road")
    for date, regions in enumerate(pair.regions):
        expected = random_masks(2 + date, 64, 64)
        np.testing.assert_array_equal(regions.masks, expected)
        np.testing.assert_array_equal(regions.image, read_rgb(folder / "images" / "AB"[date] / "pair_001.png"))
        np.testing.assert_array_equal(regions.centroids, mask_set(expected).centroids)
    assert pair.matches is not None
    assert pair.matches.matched.tolist() == [[0, 0], [1, 1]]
    assert pair.matches.unmatched_after.tolist() == [2]
    assert pair.semantics is not None
    before, after = pair.semantics
    np.testing.assert_array_equal(before.masks, random_masks(2, 64, 64))
    assert before.map.shape == (64, 64)
    assert (before.map == 2).all()
    assert len(after.masks) == 0
    assert not after.map.any()
    assert "the semantics of pair 'pair_001' were skipped; semantics.failures.json" in capfd.readouterr().err
    gather_pair(folder / "prepared", "pair_000", **caches)
    assert "skipped" not in capfd.readouterr().err
    draw_pair(pair, zoom=1)


def test_maps_lie_over_pictures_that_are_not_square_as_they_were_painted() -> None:
    labels = np.array([[1, 2], [3, 4]], np.uint8)
    placed = _at_size(labels, (4, 10))
    np.testing.assert_array_equal(placed, labels.repeat(2, axis=0).repeat(5, axis=1))
    assert _at_size(np.zeros((0, 0), np.uint8), (4, 10)).shape == (4, 10)


def test_an_image_without_masks(folder: Path) -> None:
    pair = gather_pair(folder / "prepared", "pair_000", masks=folder / "masks.h5", matches=folder / "matches.h5")
    assert pair.kinds == ("masks", "matches")
    assert pair.regions[0].masks.shape == (0, 64, 64)
    draw_pair(pair, zoom=1)


def test_an_image_whose_masks_were_skipped(folder: Path, tmp_path: Path) -> None:
    prepared = folder / "prepared"
    skipped = write_masks(tmp_path / "masks.h5", prepared, write_sam(tmp_path), missing=[2])
    assert gather_pair(prepared, "pair_001", masks=skipped).regions[0].masks.shape == (0, 64, 64)


def test_what_does_not_belong_together_is_refused(folder: Path, tmp_path: Path) -> None:
    prepared, masks = folder / "prepared", folder / "masks.h5"
    with pytest.raises(DataError, match="no pair 'pair_01'") as caught:
        gather_pair(prepared, "pair_01", masks=masks)
    assert "pair_001" in str(caught.value.fix)
    with pytest.raises(CacheError, match="of other masks"):
        gather_pair(
            prepared, "pair_001", masks=masks, matches=write_matches(tmp_path / "m.h5", prepared, [(0, 1), (2, 2)])
        )
    other = write_pairs(tmp_path, [(64, 64), (64, 64), (64, 64)])
    with pytest.raises(CacheError, match=r"another input: pairs\.jsonl"):
        gather_pair(other, "pair_001", masks=masks)
    with pytest.raises(CacheError):
        gather_pair(prepared, "pair_001", masks=tmp_path / "none.h5")
