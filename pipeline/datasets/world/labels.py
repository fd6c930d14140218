"""Rasterisation of a scene at either date: roofs and tree crowns as height fields, then land classes and instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

from pipeline.datasets.world.elementary import cos, sin, tan
from pipeline.datasets.world.geometry import Canvas, Mask, Patch, Points, rectangle
from pipeline.datasets.world.scene import Building, Crown, RoofPart, Scene, Surface
from pipeline.datasets.world.settings import BARELAND, BUILDING, GRASSLAND, PAVEMENT, PLAYGROUND, ROAD, TREE, WATER


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
    """Rasterise a building; where its parts overlap, the higher roof is visible."""
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
        part_height, part_facing, flat = _part_roof(part, x, y)
        higher = part_height > height
        height[higher] = part_height[higher]
        facing[higher] = part_facing[higher]
        pitch[higher] = 0.0 if flat else part.pitch
    return RoofPatch(rows, columns, height > 0, height, facing, pitch)


def _part_roof(part: RoofPart, x: Points, y: Points) -> tuple[NDArray[np.float32], NDArray[np.float32], bool]:
    cosine, sine = cos(part.angle), sin(part.angle)
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
    return (inside * (part.eaves + rise * tan(part.pitch))).astype(np.float32), facing.astype(np.float32), False


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


_LAND_OF_SURFACE = {
    "clearing": BARELAND,
    "meadow": GRASSLAND,
    "lawn": GRASSLAND,
    "pond": WATER,
    "road": ROAD,
    "driveway": PAVEMENT,
    "parking lot": PAVEMENT,
    "playground": PLAYGROUND,
    "swimming pool": WATER,
}
_OPEN_GROUND = ("clearing", "meadow")


@dataclass(frozen=True)
class DrawnDate:
    """One date of a scene on the canvas.

    Attributes:
        surfaces: Flat things with their masks, in painting order.
        buildings: Buildings with their roofs.
        crowns: Trees that exist.
        land: Land class (side, side) uint8.
        instances: Instance number (side, side) uint16, 0 for open ground.
    """

    surfaces: list[tuple[Surface, Patch]]
    buildings: list[tuple[Building, RoofPatch]]
    crowns: list[CrownStamp]
    land: NDArray[np.uint8]
    instances: NDArray[np.uint16]


def draw_dates(scene: Scene, canvas: Canvas) -> tuple[DrawnDate, DrawnDate]:
    """Draw both dates of a scene.

    A tree exists at the first date unless something is built over it, and at the second unless something is or was.
    """
    patches: dict[int, Patch] = {}

    def patch_of(shape: Polygon) -> Patch:
        if id(shape) not in patches:
            patches[id(shape)] = canvas.patch(shape)
        return patches[id(shape)]

    roofs = {building.number: roof_patch(canvas, building) for building in scene.buildings}
    stamps = stamp_crowns(canvas, scene.crowns)
    centres = canvas.to_samples(np.array([crown.centre for crown in scene.crowns]).reshape(-1, 2))
    reach = np.array([crown.radius for crown in scene.crowns]) * canvas.samples_per_metre * 0.75
    in_garden = np.array([crown.garden for crown in scene.crowns], dtype=np.bool_)
    covered_before = np.zeros(len(scene.crowns), dtype=np.bool_)
    drawn = []
    for date in (0, 1):
        land = np.full((canvas.side, canvas.side), scene.base, dtype=np.uint8)
        instances = np.zeros((canvas.side, canvas.side), dtype=np.uint16)
        built = np.zeros((canvas.side, canvas.side), dtype=np.bool_)
        lawns = np.zeros((canvas.side, canvas.side), dtype=np.bool_)
        surfaces = []
        for surface in scene.surfaces:
            shape = surface.shapes[date]
            if shape is None:
                continue
            patch = patch_of(shape)
            surfaces.append((surface, patch))
            land[patch.window][patch.mask] = _LAND_OF_SURFACE[surface.kind]
            instances[patch.window][patch.mask] = surface.number
            if surface.kind not in _OPEN_GROUND:
                (lawns if surface.kind == "lawn" else built)[patch.window] |= patch.mask
        buildings = []
        for building in scene.buildings:
            if not building.dates[date]:
                continue
            roof = roofs[building.number]
            buildings.append((building, roof))
            window = (roof.rows, roof.columns)
            land[window][roof.mask] = BUILDING
            instances[window][roof.mask] = building.number
            built[window] |= roof.mask
        covered = _covered(built, centres, reach) | (_covered(lawns, centres, reach) & ~in_garden)
        removed = covered | covered_before
        covered_before = covered
        crowns = [
            stamp for stamp, hidden in zip(stamps, removed, strict=True) if stamp.crown.dates[date] and not hidden
        ]
        for stamp in crowns:
            inside = stamp.dome > 0
            land[stamp.window][inside] = TREE
            instances[stamp.window][inside] = stamp.crown.number
        drawn.append(DrawnDate(surfaces, buildings, crowns, land, instances))
    return drawn[0], drawn[1]


def _covered(built: NDArray[np.bool_], centres: NDArray[np.float64], reach: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each crown has its centre, or one of eight points around it, on `built`."""
    turn = np.arange(8) * np.pi / 4
    ring = np.concatenate([[[0.0, 0.0]], np.stack([cos(turn), sin(turn)], axis=1)])
    points = centres[:, None, :] + ring[None] * reach[:, None, None]
    index = np.clip(np.floor(points).astype(int), 0, len(built) - 1)
    hits: NDArray[np.bool_] = built[index[..., 1], index[..., 0]].any(axis=1)
    return hits
