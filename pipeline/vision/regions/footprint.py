"""How much room region features take, told before they are computed."""

from __future__ import annotations

from typing import Final

from pipeline.vision.regions.settings import GRID, RegionSettings, Store

LEVIR_CC_PAIRS: Final = 10_077
# boxes, centroids, areas, scores; numbers of the features take two bytes.
_GEOMETRY: Final = 4 * 4 + 2 * 4 + 4 + 4


def bytes_per_region(settings: RegionSettings, channels: int, store: Store) -> int:
    """Return the bytes that one region takes in regions.h5.

    Args:
        settings: Of which the head decides the width of descriptors.
        channels: C, the width of the feature map.
        store: What is kept.
    """
    width = channels if settings.head.kind == "mean" else settings.head.width
    grid = channels * GRID * GRID if store == "grids" else 0
    return 2 * (width + grid) + _GEOMETRY


def footprint(settings: RegionSettings, channels: int, regions: int, images: int) -> str:
    """Return a line about the room that the features take, per pair and for the whole of LEVIR-CC.

    Args:
        settings: What is computed and kept.
        channels: C, the width of the feature map.
        regions: Number of regions of the data set at hand.
        images: Number of its images.
    """
    mean = regions / max(images, 1)
    parts = []
    for store in ("vectors", "grids"):
        pair = 2 * mean * bytes_per_region(settings, channels, store)
        parts.append(f"{store} {_readable(pair)} a pair, {_readable(pair * LEVIR_CC_PAIRS)} for all of LEVIR-CC")
    return f"{regions:,} regions, {mean:.1f} an image; {parts[0]}; {parts[1]}; kept: {settings.store}"


def _readable(count: float) -> str:
    """Return a number of bytes with its unit."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"
