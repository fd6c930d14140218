"""Run lengths of binary masks, COCO's uncompressed RLE, and the cache fields of masks that several schemas share.

COCO counts down the columns, and the first run is of zeros.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.schema import Field


def encode_rle(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return the run lengths of a mask (H, W), alternately of false and true, beginning with false."""
    flat = mask.ravel(order="F")
    if flat.size == 0:
        return np.zeros(0, dtype=np.uint32)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], edges, [flat.size]])
    counts = np.diff(bounds).astype(np.uint32)
    return np.concatenate([np.zeros(1, dtype=np.uint32), counts]) if flat[0] else counts


def decode_rle(counts: NDArray[np.unsignedinteger], height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask (height, width) with these run lengths.

    Raises:
        ValueError: The runs do not add up to height × width.
    """
    total = int(counts.sum())
    if total != height * width:
        raise ValueError(f"runs of {total} pixels for a mask of {height}×{width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")


def decode_rles(
    runs: NDArray[np.integer], counts: NDArray[np.unsignedinteger], height: int, width: int
) -> NDArray[np.bool_]:
    """Return the masks (N, height, width) whose run lengths are concatenated in `counts`, `runs` (N) per mask.

    Raises:
        ValueError: The runs of a mask do not add up to height × width.
    """
    masks = np.zeros((len(runs), height, width), dtype=np.bool_)
    ends = np.cumsum(runs, dtype=np.int64)
    for mask, end, length in zip(masks, ends, runs, strict=True):
        mask[:] = decode_rle(counts[end - length : end], height, width)
    return masks


SIZE = Field("size", dtype="int32", shape=(2,), unit="px", description="height and width of the image")


def geometry(offsets: str, order: str = "") -> tuple[Field, Field, Field]:
    """Return the cache fields for boxes, centroids and areas of masks.

    Args:
        offsets: Name of the offsets that they share with the other fields of the masks.
        order: Text on the order of the masks, appended to the description of the boxes.
    """
    return (
        Field(
            "boxes",
            dtype="float32",
            shape=(4,),
            offsets=offsets,
            unit="px",
            description="smallest box around each mask: left, top, right, bottom, the latter two exclusive" + order,
        ),
        Field(
            "centroids",
            dtype="float32",
            shape=(2,),
            offsets=offsets,
            unit="px",
            description="mean x and y of the centres of a mask's pixels, from the corner of the image",
        ),
        Field("areas", dtype="int32", offsets=offsets, unit="px", description="number of pixels of each mask"),
    )


def run_lengths(offsets: str, masks: str) -> tuple[Field, Field]:
    """Return the cache fields for run lengths of masks, see `encode_rle`.

    Args:
        offsets: Name of the offsets of `runs`, which it shares with the other fields of the masks.
        masks: What the masks are, for the description.
    """
    return (
        Field("runs", dtype="int32", offsets=offsets, description="number of run lengths of each mask in `counts`"),
        Field(
            "counts",
            dtype="uint32",
            offsets="rle",
            unit="px",
            description=f"run lengths of {masks} one after the other, as COCO counts them: down the columns, "
            "alternately without and with the mask",
            compression="gzip",
        ),
    )
