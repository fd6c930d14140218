"""Masks against the ground truth of the synthetic world: recall of objects, and quality of masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZES = (30, 60, 120, 240, 480)
"""Lower bounds in pixels of the classes of size that recall is given by."""


@dataclass(frozen=True)
class ObjectScore:
    """An object of the ground truth, and how well the best of a set of masks matches it.

    Attributes:
        kind: Object class.
        area: Its visible pixels.
        iou: The best of the masks with it; 0 without masks.
    """

    kind: str
    area: int
    iou: float


@dataclass(frozen=True)
class Recall:
    """How many objects are matched by a mask.

    Attributes:
        objects: How many there are.
        recall: Share of them of which a mask reaches the threshold; 0 without objects.
        mean_iou: Mean of the best IoU of each.
    """

    objects: int
    recall: float
    mean_iou: float


@dataclass(frozen=True)
class RecallReport:
    """Recall over many images.

    Attributes:
        threshold: IoU at which an object counts as matched.
        whole: Of all objects.
        by_kind: By object class, in alphabetical order.
        by_size: By the least area of the class of size, rising.
    """

    threshold: float
    whole: Recall
    by_kind: dict[str, Recall]
    by_size: dict[int, Recall]


def best_ious(truths: NDArray[np.bool_], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return for each of N truths (N, H, W) the best IoU of M masks (M, H, W) with it, as (N); 0 without masks.

    Raises:
        ValueError: They are of different sizes.
    """
    if truths.shape[1:] != masks.shape[1:]:
        raise ValueError(f"truths of {truths.shape[1:]} and masks of {masks.shape[1:]} pixels")
    if len(truths) == 0 or len(masks) == 0:
        return np.zeros(len(truths))
    # Products of float32 are exact for counts below 2^24.
    a, b = (x.reshape(len(x), -1).astype(np.float32) for x in (truths, masks))
    overlap = (a @ b.T).astype(np.float64)
    union = a.sum(1, dtype=np.float64)[:, None] + b.sum(1, dtype=np.float64) - overlap
    best: NDArray[np.float64] = (overlap / np.maximum(union, 1)).max(axis=1)
    return best


def score_objects(
    instances: NDArray[np.integer], objects: Sequence[dict[str, Any]], masks: NDArray[np.bool_], *, min_area: int = 30
) -> list[ObjectScore]:
    """Return the best IoU of each of an image's objects with its masks.

    Args:
        instances: (H, W): instance numbers.
        objects: Records of `read_objects`, of that date: id, class, area.
        masks: (M, H, W) bool.
        min_area: Objects of fewer visible pixels are left out.

    Raises:
        ValueError: The masks are of another size than the image.
    """
    large = [item for item in objects if item["area"] >= min_area]
    numbers = np.array([item["id"] for item in large], dtype=np.int64)
    ious = best_ious(instances[None] == numbers[:, None, None], masks)
    return [
        ObjectScore(str(item["class"]), int(item["area"]), float(iou)) for item, iou in zip(large, ious, strict=True)
    ]


def mask_quality(maps: Sequence[NDArray[np.integer]], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return for each mask (M, H, W) its best IoU with any segment of any of the maps, as (M).

    Args:
        maps: Maps (H, W) of segment numbers, as of `pipeline.vision.sam.pretraining.segment`.
        masks: (M, H, W) bool.
    """
    truths = [segments[None] == np.unique(segments)[:, None, None] for segments in maps]
    return best_ious(masks, np.concatenate(truths))


def report(scores: Iterable[ObjectScore], *, threshold: float = 0.5) -> RecallReport:
    """Summarise objects of any number of images.

    Args:
        scores: Of `score_objects`.
        threshold: IoU from which an object counts as matched.
    """
    scores = list(scores)
    kinds = {kind: [item for item in scores if item.kind == kind] for kind in sorted({item.kind for item in scores})}
    upper = (*SIZES[1:], np.inf)
    sizes = {
        least: [item for item in scores if least <= item.area < limit]
        for least, limit in zip(SIZES, upper, strict=True)
    }
    return RecallReport(
        threshold=threshold,
        whole=_recall(scores, threshold),
        by_kind={kind: _recall(group, threshold) for kind, group in kinds.items()},
        by_size={least: _recall(group, threshold) for least, group in sizes.items() if group},
    )


def _recall(scores: Sequence[ObjectScore], threshold: float) -> Recall:
    if not scores:
        return Recall(0, 0.0, 0.0)
    ious = np.array([item.iou for item in scores])
    return Recall(len(scores), float((ious >= threshold).mean()), float(ious.mean()))
