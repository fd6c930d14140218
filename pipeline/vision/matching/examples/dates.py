"""Examples that need no second view: both dates of the pairs of a generated world, whose truth is known.

What SAM makes of one object differs from date to date by more than any warp of one mask shows: it merges, splits and
overlooks. Here the regions of both dates are SAM's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.world import read_picture
from pipeline.vision.matching.examples.making import View
from pipeline.vision.matching.examples.pieces import in_pieces
from pipeline.vision.matching.examples.source import PreparedImages
from pipeline.vision.matching.examples.tensors import Describer, Example, Examples
from pipeline.vision.matching.oracle import Gold, read_gold
from pipeline.vision.sam.cache import read_masks

_PAIRS_PER_FILE = 64
_SAME_IOU = 0.5
_UNCHANGED = 0.75
"""Share of a region that must not have changed for it to be the same ground at both dates."""


def date_examples(
    images: PreparedImages,
    split: Literal["train", "val"],
    describer: Describer,
    length: int,
    *,
    folder: Path,
    title: str,
) -> Examples:
    """Make an example of every pair of a split, or read what `folder` holds of them.

    Args:
        images: A generated world and its masks.
        split: Which of its splits; none of its images may have been skipped.
        describer: Computes descriptors.
        length: Regions that every date is padded to; it has no more.
        folder: Where the pieces lie; it must belong to exactly these arguments.
        title: What the progress bar is called.

    Raises:
        CheckpointError: A piece is damaged.
        DataError: What the world knows is missing or damaged.
    """
    world = images.data.root
    gold = list(read_gold(world, split, images.masks).items())

    def make(source: tuple[str, Gold]) -> list[Example]:
        name, truth = source
        before, after = (_view(images, images.masks.unit(name, date), length) for date in (0, 1))
        change = read_picture(world, "change", split, f"{name}.png") > 0
        return [(before, after, counterparts(before.masks, after.masks, truth, change))]

    return in_pieces(gold, make, describer, length, size=_PAIRS_PER_FILE, folder=folder, title=title)


def _view(images: PreparedImages, unit: int, length: int) -> View:
    found, picture = read_masks(images.masks, unit), images[unit]
    return View(
        picture.image, picture.masks[:length], found.boxes[:length], found.centroids[:length], picture.scores[:length]
    )


def counterparts(
    before: NDArray[np.bool_], after: NDArray[np.bool_], gold: Gold, change: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return (N1) of each region before the number of the one after that is the same, −1 for none.

    Regions that show the same surviving object belong together; where there are several of it, those that overlap
    best. Others do where they overlap by IoU 0.5 on ground that has not changed, unless one of them shows an object
    that came or went.

    Args:
        before: (N1, H, W) masks.
        after: (N2, H, W) masks.
        gold: Which object each region shows; it may speak of more regions than there are masks.
        change: (H, W) where the dates differ in what there is.
    """
    flat = [masks.reshape(len(masks), change.size).astype(np.float32) for masks in (before, after)]
    areas = [masks.sum(1) for masks in flat]
    shared = flat[0] @ flat[1].T
    iou = shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1)
    one, other = gold.before[: len(before), None], gold.after[None, : len(after)]
    same = (one == other) & np.isin(one, list(gold.corresponding))
    moving = np.isin(one, list(gold.disappeared)) | np.isin(other, list(gold.appeared))
    steady = [
        1 - masks @ change.reshape(-1).astype(np.float32) / np.maximum(area, 1)
        for masks, area in zip(flat, areas, strict=True)
    ]
    still = (steady[0][:, None] >= _UNCHANGED) & (steady[1][None] >= _UNCHANGED)
    # One object's regions are no other object's, however much they overlap.
    different = (one != other) & (one > 0) & (other > 0)
    alike = (iou >= _SAME_IOU) & still & ~moving & ~different
    worth = np.where(same, 1 + iou, np.where(alike, iou, 0))
    found = np.full(len(before), -1, dtype=np.int64)
    while worth.size and worth.max() > 0:
        row, column = np.unravel_index(int(worth.argmax()), worth.shape)
        found[row] = column
        worth[row], worth[:, column] = 0, 0
    return found
