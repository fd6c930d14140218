"""Houses and large buildings as overlapping roofed rectangles."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from pipeline.datasets.world.geometry import Points, direction, rectangle
from pipeline.datasets.world.scene import RoofKind, RoofPart

_HOUSE_ROOFS = np.array(
    [
        [0.34, 0.34, 0.36],
        [0.42, 0.39, 0.36],
        [0.50, 0.47, 0.43],
        [0.60, 0.59, 0.58],
        [0.52, 0.35, 0.28],
        [0.45, 0.31, 0.27],
    ]
)
_LARGE_ROOFS = np.array([[0.90, 0.90, 0.90], [0.70, 0.76, 0.82], [0.62, 0.62, 0.62], [0.78, 0.72, 0.63]])


def roof_colour(generator: np.random.Generator, *, large: bool) -> NDArray[np.float64]:
    """Return a roof's albedo (3,)."""
    palette = _LARGE_ROOFS if large else _HOUSE_ROOFS
    colour: NDArray[np.float64] = palette[generator.integers(len(palette))] + generator.normal(0, 0.02, 3)
    return np.clip(colour, 0.2, 0.95)


def house_parts(generator: np.random.Generator, centre: Points, angle: float, front: Points) -> list[RoofPart]:
    """Return the parts of a house that faces `front`: a body, a garage wing, and sometimes one more wing."""
    eaves, pitch = generator.uniform(3.0, 5.0), generator.uniform(0.42, 0.6)
    half_length, half_width = generator.uniform(6.0, 7.4), generator.uniform(4.6, 5.6)
    roof: RoofKind = "hip" if generator.random() < 0.8 else "gable"
    body = RoofPart(centre, half_length, half_width, angle, roof, eaves, pitch)
    parts = [body]
    along = direction(angle)
    garage_side = generator.choice([-1, 1])
    wing_width = generator.uniform(2.6, 3.4)
    wing = centre + along * garage_side * (half_length - wing_width) + front * half_width
    parts.append(RoofPart(wing, generator.uniform(3.4, 4.6), wing_width, angle + np.pi / 2, roof, eaves - 0.2, pitch))
    if generator.random() < 0.6:
        back = centre - along * garage_side * half_length * generator.uniform(0.2, 0.6) - front * half_width * 0.8
        parts.append(
            RoofPart(
                back, generator.uniform(3.0, 4.4), generator.uniform(2.6, 3.6), angle + np.pi / 2, roof, eaves, pitch
            )
        )
    return parts


def hall_parts(
    generator: np.random.Generator, centre: Points, length: float, width: float, angle: float
) -> list[RoofPart]:
    """Return the parts of a large building of `length` × `width` metres: a hall, sometimes with a lower wing."""
    height = generator.uniform(6.0, 9.0)
    gabled = generator.random() < 0.4
    if generator.random() < 0.5:
        return [RoofPart(centre, length / 2, width / 2, angle, "gable" if gabled else "flat", height, 0.16)]
    along, across = direction(angle), direction(angle + np.pi / 2)
    share = generator.uniform(0.55, 0.7)
    side = generator.choice([-1, 1])
    hall = RoofPart(
        centre - along * side * length * (1 - share) / 2,
        length * share / 2,
        width / 2,
        angle,
        "gable" if gabled else "flat",
        height,
        0.16,
    )
    wing_width = width * generator.uniform(0.55, 0.8)
    wing = RoofPart(
        centre + along * side * length * share / 2 + across * generator.choice([-1, 1]) * (width - wing_width) / 2,
        length * (1 - share) / 2 + 0.5,
        wing_width / 2,
        angle,
        "flat",
        height - 2,
        0.1,
    )
    return [hall, wing]


def outline(parts: list[RoofPart]) -> Polygon:
    """Return the ground plan of a building: the union of its parts."""
    return shapely.union_all(
        [Polygon(rectangle(part.centre, 2 * part.half_length, 2 * part.half_width, part.angle)) for part in parts]
    )
