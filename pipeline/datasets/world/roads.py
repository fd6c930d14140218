"""Road networks: which roads cross the scene, and the plots beside them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import shapely
from shapely import Polygon

from pipeline.datasets.world.geometry import Points, along_line, arc_lengths, direction, rectangle, smooth_curve
from pipeline.datasets.world.scene import Plot, Road, RoadForm

NetworkForm = Literal["straight", "curved", "winding", "t-shaped", "crossroad", "parallel"]

_OVERHANG = 24.0
"""Metres by which roads run on beyond the picture, so that plots at its edge have their neighbours."""


def network_lines(
    generator: np.random.Generator, extent: float, form: NetworkForm, *, cell: tuple[float, float] | None = None
) -> list[tuple[Points, RoadForm]]:
    """Return the centre lines of a road network that crosses the picture.

    Args:
        generator: Source of chance.
        extent: Width and height of the picture in metres.
        form: Layout; t-shaped and crossroad have two roads that meet, parallel has two that do not.
        cell: Where the network's middle lies, as shares of the extent; drawn at random when None.
    """
    if cell is None:
        cell = (generator.uniform(0.28, 0.72), generator.uniform(0.28, 0.72))
    middle = np.array(cell) * extent
    # Mostly along the picture's sides, sometimes askew.
    tilt = generator.normal(0, 0.1) if generator.random() < 0.75 else generator.uniform(-0.7, 0.7)
    heading = tilt + (np.pi / 2 if generator.random() < 0.5 else 0.0)
    reach = extent + _OVERHANG
    along, across = direction(heading), direction(heading + np.pi / 2)
    through = np.linspace(middle - along * reach, middle + along * reach, 9)
    if form == "straight":
        return [(through, "straight")]
    if form == "curved":
        bend = generator.choice([-1, 1]) * generator.uniform(0.5, 0.9) * extent
        near, far = middle - along * reach * 0.8, middle + along * reach * 0.8
        # The control point is twice as far out as the curve's own middle, which should lie in the picture.
        start, end = near - across * bend * 0.5, far - across * bend * 0.5
        return [(smooth_curve(np.stack([start, middle + across * bend * 0.5, end])), "curved")]
    if form == "winding":
        swing = generator.choice([-1, 1]) * generator.uniform(0.45, 0.7) * extent
        start, end = middle - along * reach * 0.75, middle + along * reach * 0.75
        first, second = middle - along * extent * 0.2 + across * swing, middle + along * extent * 0.2 - across * swing
        return [(smooth_curve(np.stack([start, first, second, end]), 49), "winding")]
    if form == "parallel":
        gap = generator.uniform(0.4, 0.52) * extent
        offset = across * gap / 2
        return [(through - offset, "straight"), (through + offset, "straight")]
    turn = generator.normal(0, 0.08)
    crossing = direction(heading + np.pi / 2 + turn)
    if form == "crossroad":
        return [
            (through, "straight"),
            (np.linspace(middle - crossing * reach, middle + crossing * reach, 9), "straight"),
        ]
    branch = crossing * generator.choice([-1, 1])
    return [(through, "straight"), (np.linspace(middle, middle + branch * reach, 6), "straight")]


def visible_span(line: Points, extent: float) -> tuple[float, float]:
    """Return the distances along a polyline at which it enters and leaves the picture; equal if it never does."""
    inside = shapely.LineString(line).intersection(shapely.box(0, 0, extent, extent))
    if inside.is_empty:
        return 0.0, 0.0
    whole = shapely.LineString(line)
    ends = [whole.project(shapely.Point(point)) for point in shapely.get_coordinates(inside)]
    return min(ends), max(ends)


def plots_along(generator: np.random.Generator, road: Road, extent: float) -> list[Plot]:
    """Lay plots of one width along both sides of a road, in order of distance, whether free or not."""
    spacing = generator.uniform(17.5, 22.0)
    depth = generator.uniform(25.0, 30.0)
    setback = generator.uniform(12.0, 14.5)
    start = generator.uniform(0, spacing)
    total = arc_lengths(road.line)[-1]
    plots = []
    for distance in np.arange(start, total, spacing):
        point, angle = along_line(road.line, float(distance))
        if not (-_OVERHANG < point[0] < extent + _OVERHANG and -_OVERHANG < point[1] < extent + _OVERHANG):
            continue
        for side in (-1, 1):
            away = direction(angle + side * np.pi / 2)
            edge = point + away * (road.width / 2 + 0.5)
            ground = Polygon(rectangle(edge + away * depth / 2, spacing, depth, angle))
            centre = edge + away * setback
            plots.append(Plot(road.number, side, float(distance), centre, angle, ground, -away, setback))
    return plots
