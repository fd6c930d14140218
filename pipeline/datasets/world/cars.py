"""Cars on roads, driveways and parking lots: they come and go and are no change."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from pipeline.datasets.world.canvas import Canvas, Patch
from pipeline.datasets.world.geometry import along_line, arc_lengths, direction, rectangle
from pipeline.datasets.world.markings import AISLE, STALL_LENGTH, STALL_WIDTH
from pipeline.datasets.world.pigments import Plane, Planes, fill
from pipeline.datasets.world.scene import Surface

_COLOURS = np.array(
    [[0.92, 0.92, 0.92], [0.12, 0.12, 0.13], [0.65, 0.12, 0.10], [0.62, 0.64, 0.66], [0.20, 0.28, 0.45]]
)


def paint_cars(
    surfaces: list[tuple[Surface, Patch]],
    albedo: Planes,
    height: Plane,
    canvas: Canvas,
    amount: float,
    generator: np.random.Generator,
) -> None:
    """Place cars on everything they can stand on, `amount` times as many as usual."""
    for surface, patch in surfaces:
        if not patch.mask.any():
            continue
        if surface.kind == "road":
            places = _on_road(surface, amount, generator)
        elif surface.kind == "parking lot":
            places = _in_stalls(surface, amount, generator)
        elif surface.kind == "driveway" and generator.random() < 0.35 * amount:
            places = [_on_driveway(surface)]
        else:
            continue
        for centre, angle in places:
            _paint_car(centre, angle, patch, albedo, height, canvas, generator)


def _on_road(
    surface: Surface, amount: float, generator: np.random.Generator
) -> list[tuple[NDArray[np.float64], float]]:
    line = surface.line
    if line is None:
        return []
    total = float(arc_lengths(line)[-1])
    places = []
    for distance in generator.uniform(0, total, generator.poisson(amount * total / 90)):
        point, angle = along_line(line, float(distance))
        lane = generator.choice([-1, 1]) * 1.8
        places.append((point + lane * direction(angle + np.pi / 2), angle))
    return places


def _in_stalls(
    surface: Surface, amount: float, generator: np.random.Generator
) -> list[tuple[NDArray[np.float64], float]]:
    shape = surface.shape
    corners = np.asarray(shape.exterior.coords)
    length, width = np.hypot(*(corners[1] - corners[0])), np.hypot(*(corners[3] - corners[0]))
    period = 2 * STALL_LENGTH + AISLE
    rows = [start + part for start in np.arange(0, width, period) for part in (STALL_LENGTH / 2, STALL_LENGTH * 1.5)]
    share = min(amount * generator.uniform(0.15, 0.6), 0.9)
    places = []
    for row in rows:
        if row + STALL_LENGTH / 2 > width:
            continue
        for column in np.arange(STALL_WIDTH, length - STALL_WIDTH, STALL_WIDTH):
            if generator.random() < share:
                offset = (column + STALL_WIDTH / 2) * direction(surface.angle)
                centre = corners[0] + offset + row * direction(surface.angle + np.pi / 2)
                places.append((centre, surface.angle + np.pi / 2))
    return places


def _on_driveway(surface: Surface) -> tuple[NDArray[np.float64], float]:
    shape = surface.shape
    corners = np.asarray(shape.exterior.coords)
    step = corners[1] - corners[0]
    return shapely.get_coordinates(shape.centroid)[0], float(np.arctan2(step[1], step[0]))


def _paint_car(
    centre: NDArray[np.float64],
    angle: float,
    ground: Patch,
    albedo: Planes,
    height: Plane,
    canvas: Canvas,
    generator: np.random.Generator,
) -> None:
    colour = _COLOURS[generator.integers(len(_COLOURS))]
    patch = canvas.patch(Polygon(rectangle(centre, 4.5, 1.9, angle)))
    if not patch.mask.any() or not _within(patch, ground):
        return
    fill(albedo, patch, colour)
    height[patch.window][patch.mask] = 1.4
    fill(albedo, canvas.patch(Polygon(rectangle(centre - 0.3 * direction(angle), 2.0, 1.5, angle))), colour * 0.75)


def _within(patch: Patch, ground: Patch) -> bool:
    """Say whether the middle of a car's patch lies on the ground it was meant for."""
    row = (patch.rows.start + patch.rows.stop) // 2 - ground.rows.start
    column = (patch.columns.start + patch.columns.stop) // 2 - ground.columns.start
    height, width = ground.mask.shape
    return 0 <= row < height and 0 <= column < width and bool(ground.mask[row, column])
