"""The schema of regions.h5, and reading one image's regions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Field, Schema
from pipeline.vision.masks import SIZE, geometry
from pipeline.vision.regions.settings import GRID

SCHEMA = Schema(
    stage="regions",
    version=1,
    unit="image",
    fields=(
        Field(
            "descriptors",
            dtype="float16",
            shape=(-1,),
            offsets="regions",
            description="descriptor Z of each region, equation (8)",
        ),
        Field(
            "grids",
            dtype="float16",
            shape=(-1, GRID, GRID),
            offsets="regions",
            description="what the descriptors are made of, AAPool7×7(RoIAlign) of equations (7) and (8): channels, "
            "rows, columns; of no channels where the setting regions.store is vectors",
        ),
        *geometry("regions"),
        Field("scores", dtype="float32", offsets="regions", description="intersection over union that SAM predicts"),
        SIZE,
    ),
)
"""Layout of regions.h5. Region k of an image is mask k of masks.h5."""


@dataclass(frozen=True)
class RegionSet:
    """The N regions of one image; region k is mask k of masks.h5.

    Attributes:
        descriptors: float16 (N, d): Z of equation (8).
        boxes: float32 (N, 4): left, top, right, bottom in pixels, the latter two exclusive.
        centroids: float32 (N, 2): x, y in pixels.
        areas: int32 (N): pixels.
        scores: float32 (N): intersection over union that SAM predicts.
        size: Height and width of the image in pixels.
    """

    descriptors: NDArray[np.float16]
    boxes: NDArray[np.float32]
    centroids: NDArray[np.float32]
    areas: NDArray[np.int32]
    scores: NDArray[np.float32]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.boxes)


def read_regions(cache: Cache, unit: int) -> RegionSet:
    """Read the regions of one image; unit 2i + t is pair i at date t. A skipped image has no regions and size 0."""
    height, width = cache.row("size", unit).tolist()
    return RegionSet(
        descriptors=cache.row("descriptors", unit),
        boxes=cache.row("boxes", unit),
        centroids=cache.row("centroids", unit),
        areas=cache.row("areas", unit),
        scores=cache.row("scores", unit),
        size=(height, width),
    )
