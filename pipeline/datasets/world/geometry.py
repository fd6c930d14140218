"""Plane geometry in metres: x to the right, y downwards, (0, 0) the picture's top left corner."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

Points = NDArray[np.float64]
"""Points (n, 2) in metres."""


def direction(angle: float) -> Points:
    """Return the unit vector (2,) at `angle` radians from the x axis towards y."""
    return np.array([np.cos(angle), np.sin(angle)])


def rectangle(centre: Points, length: float, width: float, angle: float) -> Points:
    """Return the corners (4, 2) of a rectangle whose `length` runs along `angle`."""
    along, across = direction(angle) * length / 2, direction(angle + np.pi / 2) * width / 2
    return np.stack(
        [centre - along - across, centre + along - across, centre + along + across, centre - along + across]
    )


def blob(generator: np.random.Generator, centre: Points, radius: float, *, stretch: float, wobble: float) -> Points:
    """Return an organic outline (48, 2): an ellipse, turned at random, with a few smooth bumps.

    Args:
        generator: Source of chance.
        centre: Centre (2,).
        radius: Mean radius in metres.
        stretch: Ratio of the long to the short axis.
        wobble: Height of the bumps as a share of the radius.
    """
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    bumps = np.zeros_like(turn)
    for order in range(2, 6):
        bumps += generator.normal(0, 1 / order) * np.cos(order * turn + generator.uniform(0, 2 * np.pi))
    distance = radius * np.clip(1 + wobble * bumps, 0.4, 1.8)
    shape = np.stack([np.cos(turn) * distance * np.sqrt(stretch), np.sin(turn) * distance / np.sqrt(stretch)], axis=1)
    angle = generator.uniform(0, np.pi)
    along, across = direction(angle), direction(angle + np.pi / 2)
    outline: Points = centre + shape[:, :1] * along + shape[:, 1:] * across
    return outline


def smooth_curve(controls: Points, count: int = 33) -> Points:
    """Return `count` points of the Bézier curve with the given control points (3 or 4, 2)."""
    t = np.linspace(0, 1, count)[:, None]
    if len(controls) == 3:
        weights = [(1 - t) ** 2, 2 * t * (1 - t), t**2]
    else:
        weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
    curve: Points = sum(weight * control for weight, control in zip(weights, controls, strict=True))
    return curve


def arc_lengths(line: Points) -> NDArray[np.float64]:
    """Return the distance along a polyline of each of its points."""
    return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])


def along_line(line: Points, distance: float) -> tuple[Points, float]:
    """Return the point at `distance` metres along a polyline and the line's angle there."""
    lengths = arc_lengths(line)
    index = int(np.clip(np.searchsorted(lengths, distance) - 1, 0, len(line) - 2))
    step = line[index + 1] - line[index]
    share = (distance - lengths[index]) / (lengths[index + 1] - lengths[index])
    return line[index] + share * step, float(np.arctan2(step[1], step[0]))


def band(line: Points, width: float) -> Polygon:
    """Return the polygon of all points within `width`/2 of a polyline, with flat ends."""
    return shapely.LineString(line).buffer(width / 2, cap_style="flat", join_style="round", quad_segs=4)


def rings(shape: Polygon) -> list[Points]:
    """Return the outer outlines (n, 2) of a polygon or of each part of a multipolygon."""
    parts = shapely.get_parts(shape)
    return [np.asarray(part.exterior.coords) for part in parts if isinstance(part, Polygon) and not part.is_empty]


def disc(centre: Points, radius: float) -> Polygon:
    """Return a circle as a polygon."""
    return shapely.Point(centre).buffer(radius, quad_segs=6)
