"""Small caches of matches and semantic regions for tests of drawings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.schema import Provenance, Schema
from pipeline.cache.writer import pack
from pipeline.datasets.records import read_prepared
from pipeline.vision.masks import encode_rle
from pipeline.vision.matching.cache import SCHEMA as MATCHES
from pipeline.vision.matching.cache import pair_arrays
from pipeline.vision.matching.settings import AssignmentSettings
from tests.worlds.region_data import mask_set, random_masks, units_of

SIZES = [(64, 64), (64, 64)]


def write_cache(
    path: Path,
    schema: Schema,
    prepared: Path,
    arrays: Sequence[dict[str, Any] | None],
    settings: dict[str, Any],
) -> Path:
    """Write a cache with these fields per unit; None for a skipped one."""
    data = read_prepared(prepared)
    provenance = Provenance(
        schema.stage, schema.version, settings, "0" * 64, upstream={"pairs.jsonl": data.card.pairs_sha256}
    )
    return pack(path, schema, provenance, [pair.id for pair in data.pairs], units_of(schema, arrays))


def write_matches(path: Path, prepared: Path, counts: list[tuple[int, int]]) -> Path:
    """Write matches.h5 of pairs with so many regions before and after, region i matching region i."""
    tables = [np.eye(*shape, dtype=np.float32) * 0.9 for shape in counts]
    return write_cache(path, MATCHES, prepared, [pair_arrays(table, AssignmentSettings()) for table in tables], {})


def semantic_arrays(unit: int) -> dict[str, Any]:
    """Return the fields of semantics.h5 of an image with `random_masks(unit, 64, 64)`."""
    masks = random_masks(unit, 64, 64)
    mask_fields, count = mask_set(masks), len(masks)
    return {
        "boxes": mask_fields.boxes,
        "scores": mask_fields.predicted_iou,
        "category": np.arange(count, dtype=np.int32) % 2,
        "runs": mask_fields.runs,
        "counts": np.concatenate([np.zeros(0, np.uint32), *map(encode_rle, masks)]),
        "embeddings": np.zeros((count, 4), np.float16),
        "descriptors": np.zeros((count, 4), np.float16),
        "similarity": np.zeros((count, 2), np.float16),
        "selected": np.ones(count, np.uint8),
        # At half the size of the images.
        "map": np.full((32, 32), 2, np.uint8),
        "map_score": np.full((32, 32), 200, np.uint8),
        "size": np.array([64, 64], np.int32),
    }
