"""Turns a drawn date into the light that reaches the camera: materials, markings, relief and shadows."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline.datasets.world.canvas import Canvas, Patch
from pipeline.datasets.world.cars import paint_cars
from pipeline.datasets.world.geometry import direction
from pipeline.datasets.world.ground import Materials, open_ground
from pipeline.datasets.world.labels import DrawnDate
from pipeline.datasets.world.light import Acquisition, shadows, slope_light
from pipeline.datasets.world.markings import fence, lane_marks, shrunk, stall_lines
from pipeline.datasets.world.pigments import Plane, Planes, fill
from pipeline.datasets.world.scene import Building, Surface

_DRY_TREES, _LUSH_TREES = np.array([0.26, 0.26, 0.17]), np.array([0.15, 0.26, 0.15])
_FIELD, _LINE, _DECK = np.array([0.33, 0.50, 0.27]), np.array([0.85, 0.84, 0.82]), np.array([0.80, 0.77, 0.70])


def radiance(
    drawn: DrawnDate,
    base: int,
    materials: Materials,
    acquisition: Acquisition,
    canvas: Canvas,
    cars: float,
    generator: np.random.Generator,
) -> Planes:
    """Return the light (3, side, side) from every sample of the canvas, 1 being white in full sun.

    Args:
        drawn: What is where.
        base: Land class of the open ground.
        materials: The place's materials and textures.
        acquisition: Sun and season.
        canvas: The grid.
        cars: How many cars stand about, 1 being usual.
        generator: Source of what differs from day to day.
    """
    albedo = open_ground(drawn, base, materials, acquisition, canvas)
    height = np.zeros(albedo.shape[1:], dtype=np.float32)
    relief = np.ones_like(height)
    for surface, patch in drawn.surfaces:
        _paint_surface(surface, patch, albedo, materials, acquisition, canvas)
    _paint_roads([(s, patch) for s, patch in drawn.surfaces if s.kind == "road"], albedo, materials, canvas)
    paint_cars(drawn.surfaces, albedo, height, canvas, cars, generator)
    for building, roof in drawn.buildings:
        patch = Patch(roof.rows, roof.columns, roof.mask)
        height[patch.window][roof.mask] = roof.height[roof.mask]
        relief[patch.window][roof.mask] = np.clip(slope_light(roof.facing, roof.pitch, acquisition), 0.5, 1.35)[
            roof.mask
        ]
        fill(albedo, patch, building.colour, materials.speck, 0.05)
        _paint_roof_units(building, albedo, height, canvas)
    _paint_crowns(drawn, albedo, height, relief, materials, acquisition, canvas)
    sun = 1 - shadows(height, acquisition, 1 / canvas.samples_per_metre)
    ambient = np.float32(acquisition.ambient)
    albedo *= ambient + (1 - ambient) * sun * relief
    return albedo


def _paint_surface(
    surface: Surface, patch: Patch, albedo: Planes, materials: Materials, acquisition: Acquisition, canvas: Canvas
) -> None:
    colour = surface.colour
    if surface.kind == "lawn":
        fill(albedo, patch, 0.5 * colour + 0.5 * materials.grass(0.6 * acquisition.season + 0.2), materials.speck, 0.09)
        if surface.style == "fenced":
            fence(albedo, patch)
    elif surface.kind == "pond":
        fill(albedo, patch, colour, materials.cloud, 0.06)
    elif surface.kind == "driveway":
        fill(albedo, patch, colour, materials.speck, 0.03)
    elif surface.kind == "parking lot":
        fill(albedo, patch, colour, materials.grain, 0.05)
        stall_lines(albedo, patch, surface, canvas)
    elif surface.kind == "playground":
        fill(albedo, patch, colour, materials.speck, 0.04)
        fill(albedo, canvas.patch(surface.shape.buffer(-4.2)), _LINE, materials.speck, 0.02)
        fill(albedo, canvas.patch(surface.shape.buffer(-5.0)), _FIELD, materials.speck, 0.06)
    elif surface.kind == "swimming pool":
        fill(albedo, canvas.patch(surface.shape.buffer(1.0, join_style="mitre")), _DECK, materials.speck, 0.03)
        fill(albedo, patch, colour, materials.grain, 0.03)


def _paint_roads(roads: list[tuple[Surface, Patch]], albedo: Planes, materials: Materials, canvas: Canvas) -> None:
    """Paint all kerbs before all carriageways, so that no kerb crosses a junction."""
    for surface, patch in roads:
        fill(albedo, patch, 0.5 * surface.colour + 0.36, materials.speck, 0.04)
    kerb = max(1, round(0.7 * canvas.samples_per_metre))
    for surface, patch in roads:
        inner = Patch(patch.rows, patch.columns, shrunk(patch.mask, kerb))
        fill(albedo, inner, surface.colour, materials.grain, 0.035)
    for surface, patch in roads:
        if surface.style == "marked":
            lane_marks(albedo, patch, surface, canvas)


def _paint_roof_units(building: Building, albedo: Planes, height: Plane, canvas: Canvas) -> None:
    """Put ventilation boxes on flat roofs; their places follow from the building's number."""
    for part in building.parts:
        if part.roof != "flat":
            continue
        places = np.random.default_rng([building.number, round(part.half_length * 100)])
        for _ in range(int(part.half_length * part.half_width / 25)):
            along, across = places.uniform(-0.8, 0.8, 2) * (part.half_length, part.half_width)
            centre = part.centre + along * direction(part.angle) + across * direction(part.angle + np.pi / 2)
            rows, columns = canvas.window(centre - 0.9, centre + 0.9)
            albedo[:, rows, columns] = 0.55
            height[rows, columns] += 1.2


def _paint_crowns(
    drawn: DrawnDate,
    albedo: Planes,
    height: Plane,
    relief: Plane,
    materials: Materials,
    acquisition: Acquisition,
    canvas: Canvas,
) -> None:
    if not drawn.crowns:
        return
    canopy = np.zeros_like(height)
    tint = np.zeros_like(height)
    for stamp in drawn.crowns:
        under = canopy[stamp.window]
        higher = stamp.dome > under
        np.copyto(under, stamp.dome, where=higher)
        np.copyto(tint[stamp.window], np.float32(stamp.crown.tint), where=higher)
    canopy += (canopy > 0) * (np.float32(0.35) * materials.speck)
    mask = canopy > 0.5
    smooth = ndimage.uniform_filter(canopy, 3)
    slope_y, slope_x = np.gradient(smooth * np.float32(canvas.samples_per_metre))
    slope_y, slope_x = slope_y[mask], slope_x[mask]
    towards = slope_x * np.float32(np.cos(acquisition.azimuth)) + slope_y * np.float32(np.sin(acquisition.azimuth))
    lit = (1 + towards / np.float32(np.tan(acquisition.elevation))) / np.sqrt(1 + slope_x**2 + slope_y**2)
    relief[mask] = np.clip(lit, 0.3, 1.5)
    height[mask] = np.maximum(height[mask], canopy[mask])
    green = (_DRY_TREES * (1 - acquisition.season) + _LUSH_TREES * acquisition.season).astype(np.float32)
    vary = 1 + 0.14 * tint[mask] + 0.16 * materials.speck[mask] + 0.08 * materials.cloud[mask]
    albedo[:, mask] = green[:, None] * np.maximum(vary, 0.4)
