"""Draws what a scene is at either date: land classes, instance numbers, and which trees stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

from pipeline.datasets.world.canvas import Canvas, Patch
from pipeline.datasets.world.classes import BARELAND, BUILDING, GRASSLAND, PAVEMENT, PLAYGROUND, ROAD, TREE, WATER
from pipeline.datasets.world.crowns import CrownStamp, stamp_crowns
from pipeline.datasets.world.roofs import RoofPatch, roof_patch
from pipeline.datasets.world.scene import Building, Scene, Surface

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
        crowns: Trees that stand.
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

    A tree stands at the first date unless something is built over it, and at the second unless something is or was.
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
        gone = covered | covered_before
        covered_before = covered
        crowns = [stamp for stamp, hidden in zip(stamps, gone, strict=True) if stamp.crown.dates[date] and not hidden]
        for stamp in crowns:
            inside = stamp.dome > 0
            land[stamp.window][inside] = TREE
            instances[stamp.window][inside] = stamp.crown.number
        drawn.append(DrawnDate(surfaces, buildings, crowns, land, instances))
    return drawn[0], drawn[1]


def _covered(built: NDArray[np.bool_], centres: NDArray[np.float64], reach: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say of each crown whether its centre or one of eight points around it is built upon."""
    turn = np.arange(8) * np.pi / 4
    ring = np.concatenate([[[0.0, 0.0]], np.stack([np.cos(turn), np.sin(turn)], axis=1)])
    points = centres[:, None, :] + ring[None] * reach[:, None, None]
    index = np.clip(np.floor(points).astype(int), 0, len(built) - 1)
    hits: NDArray[np.bool_] = built[index[..., 1], index[..., 0]].any(axis=1)
    return hits
