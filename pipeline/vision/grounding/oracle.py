"""Scores of detections and semantic maps against what is true: average precision and mean IoU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Found:
    """Boxes that a detector found in one image, of one category.

    Attributes:
        boxes: (J, 4) left, top, right, bottom.
        scores: (J).
    """

    boxes: NDArray[np.floating]
    scores: NDArray[np.floating]


@dataclass(frozen=True)
class Truth:
    """Boxes that one image holds, of one category.

    Attributes:
        boxes: (M, 4) left, top, right, bottom.
        ignored: (M) bool: finding them is neither right nor wrong, as of objects too small to see.
    """

    boxes: NDArray[np.floating]
    ignored: NDArray[np.bool_]


def average_precision(found: Sequence[Found], truth: Sequence[Truth], *, iou: float = 0.5) -> float:
    """Return the area under the precision–recall curve of one category over all images.

    Detections are taken by falling score over all images. Each claims the free true box that it overlaps most, if by
    at least `iou`; a detection that claims none is wrong, unless an ignored box reaches `iou`. Precision at a recall is
    the best at that recall or a greater one, and the curve is integrated as it is (PASCAL VOC 2010 and later).

    Returns:
        In [0, 1]; NaN when there is no box to find.
    """
    wanted = sum(int((~one.ignored).sum()) for one in truth)
    if wanted == 0:
        return float("nan")
    overlaps = [box_iou(one.boxes, other.boxes) for one, other in zip(found, truth, strict=True)]
    free = [~one.ignored for one in truth]
    order = sorted(
        ((-float(score), image, row) for image, one in enumerate(found) for row, score in enumerate(one.scores)),
    )
    hits = []
    for _, image, row in order:
        reached = overlaps[image][row] >= iou
        candidates = np.flatnonzero(reached & free[image])
        if candidates.size:
            free[image][candidates[overlaps[image][row][candidates].argmax()]] = False
            hits.append(True)
        elif not (reached & truth[image].ignored).any():
            hits.append(False)
    if not hits:
        return 0.0
    right = np.cumsum(hits)
    recall = right / wanted
    precision = np.maximum.accumulate((right / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def box_iou(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of every pair of boxes (J, 4) and (M, 4) as (J, M)."""
    a, b = one[:, None].astype(np.float64), other[None].astype(np.float64)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def class_iou(predicted: NDArray[np.integer], true: NDArray[np.integer], classes: int) -> NDArray[np.float64]:
    """Return the intersection over union of each class 0 … classes − 1 over all pixels; NaN where neither has it."""
    pairs = true.astype(np.int64).ravel() * classes + predicted.astype(np.int64).ravel()
    confusion = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    shared = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - shared
    return np.asarray(np.divide(shared, union, out=np.full(classes, np.nan), where=union > 0))
