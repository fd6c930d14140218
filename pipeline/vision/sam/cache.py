"""Schema of masks.h5, and reading the masks of an image from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Field, Schema
from pipeline.vision.masks import SIZE, decode_rles, geometry, run_lengths

SCHEMA = Schema(
    stage="masks",
    version=1,
    unit="image",
    fields=(
        *geometry("masks", "; masks in order of falling predicted IoU"),
        Field(
            "predicted_iou",
            dtype="float32",
            offsets="masks",
            description="the model's own estimate of each mask's intersection over union with the object it means",
        ),
        Field(
            "stability",
            dtype="float32",
            offsets="masks",
            description="intersection over union of the masks at a higher and a lower threshold of the logits",
        ),
        *run_lengths("masks", "all masks"),
        SIZE,
        Field(
            "embedding",
            dtype="float16",
            shape=(-1, -1, -1),
            description="embedding of the image by SAM's encoder: channels, rows, columns; of no size where the "
            "setting masks.store_embeddings is off",
        ),
    ),
)
"""Schema of masks.h5."""


@dataclass(frozen=True)
class MaskSet:
    """The N masks of one image, in order of falling predicted IoU.

    Attributes:
        boxes: float32 (N, 4): left, top, right, bottom in pixels, the latter two exclusive.
        centroids: float32 (N, 2): x, y in pixels.
        areas: int32 (N): pixels.
        predicted_iou: float32 (N).
        stability: float32 (N).
        runs: int32 (N): number of run lengths of each mask.
        counts: uint32: the run lengths of all masks, one after the other; see `pipeline.vision.masks`.
        size: Height and width of the image in pixels.
    """

    boxes: NDArray[np.float32]
    centroids: NDArray[np.float32]
    areas: NDArray[np.int32]
    predicted_iou: NDArray[np.float32]
    stability: NDArray[np.float32]
    runs: NDArray[np.int32]
    counts: NDArray[np.uint32]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.areas)

    def bitmaps(self) -> NDArray[np.bool_]:
        """Return all masks as bool (N, H, W)."""
        return decode_rles(self.runs, self.counts, *self.size)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that `SCHEMA` names, except for the embedding."""
        return {
            "boxes": self.boxes,
            "centroids": self.centroids,
            "areas": self.areas,
            "predicted_iou": self.predicted_iou,
            "stability": self.stability,
            "runs": self.runs,
            "counts": self.counts,
            "size": np.array(self.size, dtype=np.int32),
        }


def read_masks(cache: Cache, unit: int) -> MaskSet:
    """Read the masks of one image; unit 2i + t is pair i at date t. A skipped image has none, and size 0."""
    height, width = cache.row("size", unit).tolist()
    ragged = {name: cache.row(name, unit) for name in ("boxes", "centroids", "areas", "predicted_iou", "stability")}
    return MaskSet(**ragged, runs=cache.row("runs", unit), counts=cache.row("counts", unit), size=(height, width))
