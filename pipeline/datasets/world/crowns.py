"""Tree crowns on the canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.world.canvas import Canvas
from pipeline.datasets.world.scene import Crown

_STEM = 1.5
"""Height in metres at which the crown begins."""


@dataclass(frozen=True)
class CrownStamp:
    """A crown as a small height field.

    Attributes:
        crown: The tree.
        window: Rows and columns of the canvas that it touches.
        dome: Height in metres within the window, 0 outside the crown.
    """

    crown: Crown
    window: tuple[slice, slice]
    dome: NDArray[np.float32]


def stamp_crowns(canvas: Canvas, crowns: Sequence[Crown]) -> list[CrownStamp]:
    """Rasterise crowns as half ellipsoids."""
    if not crowns:
        return []
    centres = canvas.to_samples(np.array([crown.centre for crown in crowns])) - 0.5
    radii = np.array([crown.radius for crown in crowns]) * canvas.samples_per_metre
    low = np.clip(np.ceil(centres - radii[:, None]).astype(int), 0, canvas.side).tolist()
    high = np.clip(np.floor(centres + radii[:, None]).astype(int) + 1, 0, canvas.side).tolist()
    axis = np.arange(canvas.side, dtype=np.float32)
    stamps = []
    for crown, centre, radius, (left, top), (right, bottom) in zip(
        crowns, centres.tolist(), radii.tolist(), low, high, strict=True
    ):
        x, y = (axis[left:right] - centre[0]) / radius, (axis[top:bottom] - centre[1]) / radius
        inside = 1 - (x * x)[None, :] - (y * y)[:, None]
        dome = np.sqrt(np.maximum(inside, 0)) * np.float32(1.35 * crown.radius)
        dome += (inside > 0) * np.float32(_STEM)
        stamps.append(CrownStamp(crown, (slice(top, bottom), slice(left, right)), dome.astype(np.float32)))
    return stamps
