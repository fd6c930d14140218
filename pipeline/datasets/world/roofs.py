"""Roofs as height fields: which sample belongs to which slope, and how high it lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.world.canvas import Canvas, Mask
from pipeline.datasets.world.geometry import Points, rectangle
from pipeline.datasets.world.scene import Building, RoofPart


@dataclass(frozen=True)
class RoofPatch:
    """A building on the canvas.

    Attributes:
        rows: Rows of its window.
        columns: Columns of its window.
        mask: Samples that it covers.
        height: Height of the roof in metres.
        facing: Direction in radians into which the slope falls.
        pitch: Slope in radians, 0 where flat.
    """

    rows: slice
    columns: slice
    mask: Mask
    height: NDArray[np.float32]
    facing: NDArray[np.float32]
    pitch: NDArray[np.float32]


def roof_patch(canvas: Canvas, building: Building) -> RoofPatch:
    """Rasterise a building; where parts overlap the higher roof is seen."""
    corners = np.concatenate(
        [rectangle(part.centre, 2 * part.half_length, 2 * part.half_width, part.angle) for part in building.parts]
    )
    rows, columns = canvas.window(corners.min(axis=0), corners.max(axis=0))
    x, y = canvas.centres(rows, columns)
    shape = (y.shape[0], x.shape[1])
    height = np.zeros(shape, dtype=np.float32)
    facing = np.zeros(shape, dtype=np.float32)
    pitch = np.zeros(shape, dtype=np.float32)
    for part in building.parts:
        part_height, part_facing, flat = _part(part, x, y)
        higher = part_height > height
        height[higher] = part_height[higher]
        facing[higher] = part_facing[higher]
        pitch[higher] = 0.0 if flat else part.pitch
    return RoofPatch(rows, columns, height > 0, height, facing, pitch)


def _part(part: RoofPart, x: Points, y: Points) -> tuple[NDArray[np.float32], NDArray[np.float32], bool]:
    cosine, sine = np.cos(part.angle), np.sin(part.angle)
    dx, dy = x - part.centre[0], y - part.centre[1]
    along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
    to_end, to_side = part.half_length - np.abs(along), part.half_width - np.abs(across)
    inside = (to_end > 0) & (to_side > 0)
    side_facing = part.angle + np.where(across > 0, np.pi / 2, -np.pi / 2)
    if part.roof == "flat":
        return (inside * part.eaves).astype(np.float32), side_facing.astype(np.float32), True
    rise, facing = to_side, side_facing
    if part.roof == "hip":
        end_facing = part.angle + np.where(along > 0, 0.0, np.pi)
        facing = np.where(to_end < to_side, end_facing, side_facing)
        rise = np.minimum(to_side, to_end)
    return (inside * (part.eaves + rise * np.tan(part.pitch))).astype(np.float32), facing.astype(np.float32), False
