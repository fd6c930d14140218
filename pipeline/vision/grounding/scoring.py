"""Detections in scenes of the synthetic world against the objects that are there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.vision.grounding.categories import Category
from pipeline.vision.grounding.detection import Detections
from pipeline.vision.grounding.oracle import Found, Truth, average_precision
from pipeline.vision.grounding.scenes import Scenes
from pipeline.vision.grounding.settings import GroundingSettings
from pipeline.vision.grounding.vocabulary import KINDS, PHRASES

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
