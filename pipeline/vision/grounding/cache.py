"""Schema of semantics.h5, and the semantic regions and map of one image in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Field, Schema
from pipeline.vision.masks import SIZE, decode_rles, run_lengths

SCHEMA = Schema(
    stage="semantics",
    version=1,
    unit="image",
    fields=(
        Field(
            "boxes",
            dtype="float32",
            shape=(4,),
            offsets="regions",
            unit="px",
            description="boxes by Grounding DINO: left, top, right, bottom; regions in order of falling score",
        ),
        Field("scores", dtype="float32", offsets="regions", unit="probability", description="score of the category"),
        Field(
            "category",
            dtype="int32",
            offsets="regions",
            description="number of the category in the setting semantics.grounding.prompts, from 0",
        ),
        *run_lengths("regions", "the masks that SAM makes of the boxes,"),
        Field(
            "embeddings",
            dtype="float16",
            shape=(-1,),
            offsets="regions",
            description="region embeddings E of equation (11), in the space of the setting semantics.space",
        ),
        Field(
            "descriptors",
            dtype="float16",
            shape=(-1,),
            offsets="regions",
            description="descriptor Z of each region's box on SAM's feature map, equations (7) and (8)",
        ),
        Field(
            "similarity",
            dtype="float16",
            shape=(-1,),
            offsets="regions",
            description="S of equation (11): cosine between the region's embedding and each category's",
        ),
        Field("selected", dtype="uint8", offsets="regions", description="1: among the top q of equation (12), else 0"),
        Field(
            "map",
            dtype="uint8",
            shape=(-1, -1),
            description="category + 1 of the best-scoring mask at each pixel, 0 for none: rows, columns, of the image "
            "or of the setting semantics.map_size",
            compression="gzip",
        ),
        Field(
            "map_score",
            dtype="uint8",
            shape=(-1, -1),
            unit="1/255",
            description="score of that mask",
            compression="gzip",
        ),
        SIZE,
    ),
)
"""Fields of semantics.h5."""


@dataclass(frozen=True)
class SemanticSet:
    """The J semantic regions of one image, in order of falling score, and its semantic map.

    Attributes:
        boxes: float32 (J, 4): left, top, right, bottom in pixels.
        scores: float32 (J).
        category: int32 (J), from 0.
        masks: bool (J, H, W).
        embeddings: float16 (J, d).
        descriptors: float16 (J, D).
        similarity: float16 (J, K).
        selected: bool (J).
        map: uint8 (H, W): category + 1, 0 for none.
        map_score: uint8 (H, W): score × 255.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    category: NDArray[np.int32]
    masks: NDArray[np.bool_]
    embeddings: NDArray[np.float16]
    descriptors: NDArray[np.float16]
    similarity: NDArray[np.float16]
    selected: NDArray[np.bool_]
    map: NDArray[np.uint8]
    map_score: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.scores)


def read_semantics(cache: Cache, unit: int) -> SemanticSet:
    """Read one image; unit 2i + t is pair i at date t. A skipped image has no regions, and its map is zero."""
    height, width = cache.row("size", unit).tolist()
    stored = {
        name: cache.row(name, unit)
        for name in ("boxes", "scores", "category", "embeddings", "descriptors", "similarity")
    }
    return SemanticSet(
        **stored,
        masks=decode_rles(cache.row("runs", unit), cache.row("counts", unit), height, width),
        selected=cache.row("selected", unit) > 0,
        map=cache.row("map", unit),
        map_score=cache.row("map_score", unit),
    )
