"""Scores against the synthetic world's truth: average precision of detections, IoU of semantic maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.world.settings import LAND_CLASSES, OBJECT_CLASSES
from pipeline.vision.grounding.detector import Detections
from pipeline.vision.grounding.prompts import KINDS, PHRASES
from pipeline.vision.grounding.scenes import Scenes
from pipeline.vision.grounding.settings import Category, GroundingSettings

MIN_SCORED_AREA: Final = 16
"""Objects with fewer visible pixels are ignored by average precision."""

_OPEN_LAND: Final = ("bareland", "grassland")
"""Land cover that no box is drawn around."""

LAND_COVER: Final = ("open ground", *(name for name in LAND_CLASSES if name not in _OPEN_LAND))
"""Classes in which semantic maps and the world are compared; what no category covers is open ground."""


@dataclass(frozen=True)
class PredictedBoxes:
    """Predicted boxes of one category in one image.

    Attributes:
        boxes: (J, 4) left, top, right, bottom.
        scores: (J).
    """

    boxes: NDArray[np.floating]
    scores: NDArray[np.floating]


@dataclass(frozen=True)
class TrueBoxes:
    """True boxes of one category in one image.

    Attributes:
        boxes: (M, 4) left, top, right, bottom.
        ignored: (M) bool: a detection of such a box is neither right nor wrong, as of objects too small to see.
    """

    boxes: NDArray[np.floating]
    ignored: NDArray[np.bool_]


def without_thresholds(settings: GroundingSettings) -> GroundingSettings:
    """Return the settings with thresholds so low that average precision covers the whole curve."""
    return settings.model_copy(update={"box_threshold": 0.02, "text_threshold": 0.02, "max_boxes": 100})


def precision_by_category(
    scenes: Scenes, categories: Sequence[Category], detections: Sequence[Detections]
) -> dict[str, float]:
    """Return AP50 by the name of each category of which the scenes show an object.

    Args:
        scenes: I images and their objects.
        categories: As the detections number them; a phrase must be one of `PHRASES`.
        detections: (I) of each image.
    """
    scores = {}
    for number, category in enumerate(categories):
        kinds = sorted(KINDS.index(kind) for kind in set().union(*(PHRASES[phrase] for phrase in category.phrases)))
        predicted, true = [], []
        for row, image in enumerate(detections):
            of_category = (image.categories == number).cpu().numpy()
            predicted.append(
                PredictedBoxes(image.boxes.cpu().numpy()[of_category], image.scores.cpu().numpy()[of_category])
            )
            of_kinds = np.isin(scenes.kinds[row], kinds)
            true.append(TrueBoxes(scenes.boxes[row][of_kinds], scenes.areas[row][of_kinds] < MIN_SCORED_AREA))
        scores[category.name] = average_precision(predicted, true)
    return {name: score for name, score in scores.items() if not math.isnan(score)}


def average_precision(
    predicted: Sequence[PredictedBoxes], true: Sequence[TrueBoxes], *, iou_threshold: float = 0.5
) -> float:
    """Return the area under the precision–recall curve of one category over all images.

    Predictions are taken by falling score over all images. Each is matched to the unmatched true box that it overlaps
    most, if by at least `iou_threshold`; one without a match is a false positive, unless it overlaps an ignored box by
    `iou_threshold`. Precision at a recall is the best at that recall or a greater one, and the curve is integrated
    without interpolation points (PASCAL VOC 2010 and later).

    Returns:
        In [0, 1]; NaN when there is no true box.
    """
    positives = sum(int((~boxes.ignored).sum()) for boxes in true)
    if positives == 0:
        return float("nan")
    overlaps = [
        box_iou(image_predicted.boxes, image_true.boxes)
        for image_predicted, image_true in zip(predicted, true, strict=True)
    ]
    unmatched = [~boxes.ignored for boxes in true]
    ranked = sorted(
        (-float(score), image, row) for image, boxes in enumerate(predicted) for row, score in enumerate(boxes.scores)
    )
    is_true_positive = []
    for _, image, row in ranked:
        overlapping = overlaps[image][row] >= iou_threshold
        candidates = np.flatnonzero(overlapping & unmatched[image])
        if candidates.size:
            unmatched[image][candidates[overlaps[image][row][candidates].argmax()]] = False
            is_true_positive.append(True)
        elif not (overlapping & true[image].ignored).any():
            is_true_positive.append(False)
    if not is_true_positive:
        return 0.0
    true_positives = np.cumsum(is_true_positive)
    recall = true_positives / positives
    precision = true_positives / np.arange(1, len(true_positives) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def box_iou(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of every pair of boxes (J, 4) and (M, 4) as (J, M)."""
    a, b = one[:, None].astype(np.float64), other[None].astype(np.float64)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    intersection = np.clip(high - low, 0, None).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - intersection
    return np.asarray(np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0))


def world_land_cover(semantic: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return a semantic map of the world in classes of `LAND_COVER`; same shape."""
    table = np.array([0 if name in _OPEN_LAND else LAND_COVER.index(name) for name in LAND_CLASSES], dtype=np.uint8)
    return np.asarray(table[semantic])


def predicted_land_cover(labels: NDArray[np.integer], categories: Sequence[Category]) -> NDArray[np.uint8]:
    """Return a semantic map by prompts (category + 1, 0 for none) in classes of `LAND_COVER`; same shape.

    A category is the land cover of the objects that its first phrase names; one that names no object is open ground.
    """
    table = [0]
    for category in categories:
        classes = {LAND_CLASSES[OBJECT_CLASSES[kind]] for kind in PHRASES.get(category.name, frozenset())}
        table.append(LAND_COVER.index(classes.pop()) if len(classes) == 1 else 0)
    return np.asarray(np.array(table, dtype=np.uint8)[labels])


def class_iou(predicted: NDArray[np.integer], true: NDArray[np.integer], classes: int) -> NDArray[np.float64]:
    """Return the intersection over union of each class 0 … classes − 1 over all pixels; NaN where neither has it."""
    cells = true.astype(np.int64).ravel() * classes + predicted.astype(np.int64).ravel()
    confusion = np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
    intersection = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - intersection
    return np.asarray(np.divide(intersection, union, out=np.full(classes, np.nan), where=union > 0))
