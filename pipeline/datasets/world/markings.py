"""Fine lines on flat things: fences, pavements, lane marks and parking stalls."""

from __future__ import annotations

import numpy as np
import shapely
from PIL import Image, ImageDraw
from scipy import ndimage

from pipeline.datasets.world.canvas import Canvas, Mask, Patch
from pipeline.datasets.world.geometry import Points
from pipeline.datasets.world.pigments import Plane, Planes, glaze
from pipeline.datasets.world.scene import Surface

STALL_WIDTH, STALL_LENGTH, AISLE = 2.8, 5.2, 6.4
"""A parking lot's measures in metres."""


def shrunk(mask: Mask, samples: int) -> Mask:
    """Return a mask without its outermost samples; what the canvas cuts off is not an edge."""
    kept: Mask = ndimage.minimum_filter(mask.view(np.uint8), 2 * samples + 1, mode="nearest").view(np.bool_)
    return kept


def fence(albedo: Planes, patch: Patch) -> None:
    """Darken the rim of a lawn, as a fence and its shadow do."""
    glaze(albedo, Patch(patch.rows, patch.columns, patch.mask & ~shrunk(patch.mask, 1)), 0.05, 0.45)


def lane_marks(albedo: Planes, patch: Patch, surface: Surface, canvas: Canvas) -> None:
    """Paint a broken line along the middle of a road."""
    line = shapely.LineString(surface.line)
    starts = np.arange(0, line.length, 9.0)
    first = shapely.get_coordinates(shapely.line_interpolate_point(line, starts))
    last = shapely.get_coordinates(shapely.line_interpolate_point(line, starts + 4.0))
    marks = draw_lines(canvas, np.stack([first, last], axis=1), 0.3)[patch.window] & patch.mask
    glaze(albedo, Patch(patch.rows, patch.columns, marks), 0.92, 0.45)


def draw_lines(canvas: Canvas, lines: Points, width: float) -> Mask:
    """Rasterise polylines (n, points, 2) in metres, `width` metres wide, on the whole canvas (side, side)."""
    image = Image.new("L", (canvas.side, canvas.side))
    draw = ImageDraw.Draw(image)
    for line in canvas.to_samples(lines) - 0.5:
        draw.line(
            [tuple(point) for point in line.tolist()], fill=1, width=max(1, round(width * canvas.samples_per_metre))
        )
    return np.asarray(image).view(np.bool_)


def stall_lines(albedo: Planes, patch: Patch, surface: Surface, canvas: Canvas) -> None:
    """Paint the lines between a parking lot's stalls."""
    along, across = _lot_coordinates(patch, surface, canvas)
    in_row = np.mod(across, 2 * STALL_LENGTH + AISLE) < 2 * STALL_LENGTH
    lines = patch.mask & in_row & (np.mod(along, STALL_WIDTH) < 0.36)
    glaze(albedo, Patch(patch.rows, patch.columns, lines), 0.9, 0.5)


def _lot_coordinates(patch: Patch, surface: Surface, canvas: Canvas) -> tuple[Plane, Plane]:
    """Return each sample's distance in metres along and across a parking lot's rows, from its first corner."""
    corner = np.asarray(surface.shape.exterior.coords[0])
    x, y = canvas.centres(patch.rows, patch.columns)
    cosine, sine = np.cos(surface.angle), np.sin(surface.angle)
    dx, dy = x - corner[0], y - corner[1]
    return dx * cosine + dy * sine, dy * cosine - dx * sine
