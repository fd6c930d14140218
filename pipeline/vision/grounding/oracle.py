"""Detections in scenes of the synthetic world against the objects that are there.

Semantic maps and the synthetic world's land cover in one set of classes, so that they can be compared.

Scores of detections and semantic maps against what is true: average precision and mean IoU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.world.settings import LAND_CLASSES, OBJECT_CLASSES
from pipeline.vision.grounding.detector import Detections
from pipeline.vision.grounding.prompts import KINDS, PHRASES
from pipeline.vision.grounding.scenes import Scenes
from pipeline.vision.grounding.settings import Category, GroundingSettings

OPEN = ("bareland", "grassland")
"""Land classes that no box is drawn around: what no category covers counts as these, taken together."""

CLASSES = ("open ground", *(name for name in LAND_CLASSES if name not in OPEN))
"""Names of the common classes."""


def common_land(semantic: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return a semantic map of the world in the common classes; same shape."""
    table = np.array([0 if name in OPEN else CLASSES.index(name) for name in LAND_CLASSES], dtype=np.uint8)
    return np.asarray(table[semantic])


def common_map(labels: NDArray[np.integer], categories: Sequence[Category]) -> NDArray[np.uint8]:
    """Return a semantic map by prompts (category + 1, 0 for none) in the common classes; same shape.

    A category is the land that the objects named by its first phrase show; one that names no object is open ground.
    """
    table = [0]
    for category in categories:
        lands = {LAND_CLASSES[OBJECT_CLASSES[kind]] for kind in PHRASES.get(category.name, frozenset())}
        table.append(CLASSES.index(lands.pop()) if len(lands) == 1 else 0)
    return np.asarray(np.array(table, dtype=np.uint8)[labels])


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


SMALL = 16
"""Visible pixels below which an object is ignored by the scores."""


def every_box(settings: GroundingSettings) -> GroundingSettings:
    """Return the settings with thresholds so low that average precision sees the whole curve."""
    return settings.model_copy(update={"box_threshold": 0.02, "text_threshold": 0.02, "boxes": 100})


def precision_by_category(
    scenes: Scenes, categories: Sequence[Category], seen: Sequence[Detections]
) -> dict[str, float]:
    """Return AP50 by the name of each category of which the scenes show an object.

    Args:
        scenes: I images and their objects.
        categories: As the detections number them; a phrase must be one of `PHRASES`.
        seen: (I) detections of each image.
    """
    scores = {}
    for number, category in enumerate(categories):
        kinds = sorted(KINDS.index(kind) for kind in set().union(*(PHRASES[phrase] for phrase in category.phrases)))
        found, truth = [], []
        for row, detections in enumerate(seen):
            mine = (detections.categories == number).cpu().numpy()
            found.append(Found(detections.boxes.cpu().numpy()[mine], detections.scores.cpu().numpy()[mine]))
            true = np.isin(scenes.kinds[row], kinds)
            truth.append(Truth(scenes.boxes[row][true], scenes.areas[row][true] < SMALL))
        scores[category.name] = average_precision(found, truth)
    return {name: score for name, score in scores.items() if not math.isnan(score)}
