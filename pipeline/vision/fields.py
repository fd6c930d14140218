"""Fields that several caches of images hold."""

from __future__ import annotations

from pipeline.cache import Field

SIZE = Field("size", dtype="int32", shape=(2,), unit="px", description="height and width of the image")


def geometry(offsets: str, order: str = "") -> tuple[Field, Field, Field]:
    """Return boxes, centroids and areas of masks.

    Args:
        offsets: Name of the offsets that they share with the other fields of the masks.
        order: What the description of the boxes says of the order of the masks.
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
    """Return the fields of masks as `pipeline.vision.rle` counts them.

    Args:
        offsets: Name of the offsets of `runs`, which it shares with the other fields of the masks.
        masks: Which masks these are, for the description.
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
