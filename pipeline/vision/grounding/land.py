"""Semantic maps and the synthetic world's land cover in one set of classes, so that they can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.world.classes import LAND_CLASSES, OBJECT_CLASSES
from pipeline.vision.grounding.categories import Category
from pipeline.vision.grounding.vocabulary import PHRASES

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
