from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cache.schema import Provenance, Schema
from pipeline.cache.writer import pack
from pipeline.datasets.images import read_rgb
from pipeline.datasets.records import read_prepared
from pipeline.errors import CacheError, DataError
from pipeline.vision.drawing.gather import gather_pair
from pipeline.vision.drawing.pair import KINDS, draw_pair
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.matching.cache import SCHEMA as MATCHES
from pipeline.vision.matching.cache import pair_arrays
from pipeline.vision.matching.settings import AssignmentSettings
from tests.stages.region_data import mask_set, random_masks, units_of, write_masks, write_pairs, write_sam

SIZES = [(64, 64), (64, 64)]
PROMPTS = ["building . house", "road"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs with all caches: images 0 to 3 have 0, 1, 2 and 3 masks; the last one's semantics were skipped."""
    folder = tmp_path_factory.mktemp("gather")
    prepared = write_pairs(folder, SIZES)
    write_masks(folder / "masks.h5", prepared, write_sam(folder))
    write_matches(folder / "matches.h5", prepared, [(0, 1), (2, 3)])
    semantics = [semantic_arrays(unit) if unit < 3 else None for unit in range(4)]
    write(folder / "semantics.h5", SEMANTICS, prepared, semantics, {"grounding": {"prompts": PROMPTS}})
    return folder


def write(
    path: Path,
    schema: Schema,
    prepared: Path,
    arrays: Sequence[dict[str, Any] | None],
    settings: dict[str, Any],
) -> Path:
    data = read_prepared(prepared)
    provenance = Provenance(
        schema.stage, schema.version, settings, "0" * 64, upstream={"pairs.jsonl": data.card.pairs_sha256}
    )
    return pack(path, schema, provenance, [pair.id for pair in data.pairs], units_of(schema, arrays))


def write_matches(path: Path, prepared: Path, counts: list[tuple[int, int]]) -> Path:
    tables = [np.eye(*shape, dtype=np.float32) * 0.9 for shape in counts]
    return write(path, MATCHES, prepared, [pair_arrays(table, AssignmentSettings()) for table in tables], {})


def semantic_arrays(unit: int) -> dict[str, Any]:
    masks = random_masks(unit, 64, 64)
    found, count = mask_set(masks), len(masks)
    return {
        "boxes": found.boxes,
        "scores": found.predicted_iou,
        "category": np.arange(count, dtype=np.int32) % 2,
        "runs": found.runs,
        "counts": np.concatenate([np.zeros(0, np.uint32), *map(masks.encode, masks)]),
        "embeddings": np.zeros((count, 4), np.float16),
        "descriptors": np.zeros((count, 4), np.float16),
        "similarity": np.zeros((count, 2), np.float16),
        "selected": np.ones(count, np.uint8),
        # At half the size of the images.
        "map": np.full((32, 32), 2, np.uint8),
        "map_score": np.full((32, 32), 200, np.uint8),
        "size": np.array([64, 64], np.int32),
    }


def test_everything_about_a_pair(folder: Path) -> None:
    caches = {name: folder / f"{name}.h5" for name in ("masks", "matches", "semantics")}
    pair = gather_pair(folder / "prepared", "pair_001", **caches)
    assert pair.known == KINDS
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
    draw_pair(pair, zoom=1)


def test_an_image_without_masks(folder: Path) -> None:
    pair = gather_pair(folder / "prepared", "pair_000", masks=folder / "masks.h5", matches=folder / "matches.h5")
    assert pair.known == ("masks", "matches")
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
