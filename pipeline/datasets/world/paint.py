"""Radiance of a drawn date: ground materials, markings, cars, roofs, trees, relief and shadows.

Cars differ between the dates and are no change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from shapely import Polygon

from pipeline.datasets.world.elementary import arctan2, cos, hypot, sin, tan
from pipeline.datasets.world.geometry import (
    Canvas,
    Colour,
    Mask,
    Patch,
    Plane,
    Planes,
    Points,
    along_line,
    arc_lengths,
    direction,
    fill,
    glaze,
    mix,
    random_field,
    rectangle,
    smooth_curve,
)
from pipeline.datasets.world.labels import DrawnDate
from pipeline.datasets.world.light import Acquisition, shadows, slope_light
from pipeline.datasets.world.scene import Building, Surface
from pipeline.datasets.world.settings import BARELAND

_SOILS = np.array([[0.72, 0.65, 0.53], [0.78, 0.73, 0.62], [0.66, 0.58, 0.47], [0.74, 0.66, 0.55]])
_DRY_GRASS = np.array([[0.47, 0.42, 0.32], [0.42, 0.39, 0.31], [0.50, 0.45, 0.33]])
_LUSH_GRASS = np.array([[0.30, 0.36, 0.22], [0.34, 0.39, 0.25], [0.28, 0.33, 0.22]])
_BUSH = np.array([0.20, 0.22, 0.14])


@dataclass(frozen=True)
class Materials:
    """Materials and textures of a scene's ground, the same at both dates.

    Attributes:
        soil: Albedo of bare ground.
        dry_grass: Albedo of grass in the dry season.
        lush_grass: Albedo of grass in the green season.
        cloud: Smooth field that varies the ground over tens of metres.
        grain: Field that varies it over metres.
        speck: Field of single samples.
        bushes: Mask of low bushes, which are part of the open ground.
        track: Mask of worn tracks.
    """

    soil: Colour
    dry_grass: Colour
    lush_grass: Colour
    cloud: Plane
    grain: Plane
    speck: Plane
    bushes: Mask
    track: Mask | None

    def grass(self, season: float) -> Colour:
        """Return the albedo of grass between the dry (0) and the green season (1)."""
        return self.dry_grass * (1 - season) + self.lush_grass * season


def draw_materials(generator: np.random.Generator, canvas: Canvas) -> Materials:
    """Draw the materials of a scene."""
    kind = generator.integers(len(_DRY_GRASS))
    grain = random_field(generator, canvas.side, 0.9)
    thickets = random_field(generator, canvas.side, 1.1)
    return Materials(
        soil=_SOILS[generator.integers(len(_SOILS))] + generator.normal(0, 0.012, 3),
        dry_grass=_DRY_GRASS[kind],
        lush_grass=_LUSH_GRASS[kind],
        cloud=random_field(generator, canvas.side, 1.6),
        grain=grain,
        speck=random_field(generator, canvas.side, 0.4),
        bushes=thickets + 0.5 * grain > generator.uniform(2.3, 4.0),
        track=_track(generator, canvas) if generator.random() < 0.4 else None,
    )


def _track(generator: np.random.Generator, canvas: Canvas) -> Mask:
    extent = canvas.size * canvas.metres_per_pixel
    middle, heading = generator.uniform(0.2, 0.8, 2) * extent, generator.uniform(0, np.pi)
    reach, swing = (
        direction(heading) * extent,
        direction(heading + np.pi / 2) * generator.normal(0, 0.3, 2)[:, None] * extent,
    )
    curve = smooth_curve(np.stack([middle - reach, middle + swing[0], middle + swing[1], middle + reach]))
    wheels = direction(heading + np.pi / 2) * generator.uniform(0.8, 1.2)
    return draw_lines(canvas, np.stack([curve - wheels, curve + wheels]), 0.7)


def open_ground(drawn: DrawnDate, base: int, materials: Materials, acquisition: Acquisition, canvas: Canvas) -> Planes:
    """Return the albedo (3, side, side) of the ground before anything is built on it."""
    patches = [(surface, patch) for surface, patch in drawn.surfaces if surface.kind in ("clearing", "meadow")]
    vary = 1 + np.float32(0.06) * materials.grain + np.float32(0.075) * materials.speck
    bare: Plane | float = float(base == BARELAND)
    if patches:
        share = np.full(vary.shape, bare, dtype=np.float32)
        for surface, patch in patches:
            share[patch.window][patch.mask] = float(surface.kind == "clearing")
        # Grass frays into bare ground over a few metres instead of ending at a line.
        share = ndimage.uniform_filter(share, 2 * int(1.6 * canvas.samples_per_metre) + 1)
        share += np.float32(0.15) * materials.grain + np.float32(0.08) * materials.cloud
        bare = np.clip((share - 0.5) * 2.5 + 0.5, 0, 1)
    soil = materials.soil * (1 - 0.04 * (acquisition.season - 0.5))
    if isinstance(bare, float) and bare == 1:
        ground = np.stack([np.float32(channel) * (1 + np.float32(0.05) * materials.cloud) for channel in soil])
    else:
        lushness = np.clip(np.float32(0.22) * materials.cloud + np.float32(acquisition.season), 0, 1)
        ground = mix(materials.dry_grass, materials.lush_grass, lushness)
        if patches:
            ground = mix(ground, soil, np.asarray(bare))
    ground *= vary
    if materials.track is not None:
        ground[:, materials.track] = ground[:, materials.track] * 0.65 + soil.astype(np.float32)[:, None] * 0.33
    ground[:, materials.bushes] = ground[:, materials.bushes] * 0.4 + _BUSH.astype(np.float32)[:, None] * 0.6
    return ground


STALL_WIDTH, STALL_LENGTH, AISLE = 2.8, 5.2, 6.4
"""Dimensions of a parking lot in metres."""


def eroded(mask: Mask, samples: int) -> Mask:
    """Return a mask eroded by `samples`; the border of the canvas is not an edge."""
    eroded_mask: Mask = ndimage.minimum_filter(mask.view(np.uint8), 2 * samples + 1, mode="nearest").view(np.bool_)
    return eroded_mask


def fence(albedo: Planes, patch: Patch) -> None:
    """Darken the rim of a lawn like a fence and its shadow."""
    glaze(albedo, Patch(patch.rows, patch.columns, patch.mask & ~eroded(patch.mask, 1)), 0.05, 0.45)


def lane_marks(albedo: Planes, patch: Patch, surface: Surface, canvas: Canvas) -> None:
    """Paint a dashed line along the middle of a road."""
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
    cosine, sine = cos(surface.angle), sin(surface.angle)
    dx, dy = x - corner[0], y - corner[1]
    return dx * cosine + dy * sine, dy * cosine - dx * sine


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
    """Paint cars on roads, parking lots and driveways, `amount` times as many as usual."""
    for surface, patch in surfaces:
        if not patch.mask.any():
            continue
        if surface.kind == "road":
            poses = _on_road(surface, amount, generator)
        elif surface.kind == "parking lot":
            poses = _in_stalls(surface, amount, generator)
        elif surface.kind == "driveway" and generator.random() < 0.35 * amount:
            poses = [_on_driveway(surface)]
        else:
            continue
        for centre, angle in poses:
            _paint_car(centre, angle, patch, albedo, height, canvas, generator)


def _on_road(
    surface: Surface, amount: float, generator: np.random.Generator
) -> list[tuple[NDArray[np.float64], float]]:
    line = surface.line
    if line is None:
        return []
    total = float(arc_lengths(line)[-1])
    poses = []
    for distance in generator.uniform(0, total, generator.poisson(amount * total / 90)):
        point, angle = along_line(line, float(distance))
        lane = generator.choice([-1, 1]) * 1.8
        poses.append((point + lane * direction(angle + np.pi / 2), angle))
    return poses


def _in_stalls(
    surface: Surface, amount: float, generator: np.random.Generator
) -> list[tuple[NDArray[np.float64], float]]:
    shape = surface.shape
    corners = np.asarray(shape.exterior.coords)
    length, width = hypot(*(corners[1] - corners[0])), hypot(*(corners[3] - corners[0]))
    period = 2 * STALL_LENGTH + AISLE
    rows = [
        start + middle for start in np.arange(0, width, period) for middle in (STALL_LENGTH / 2, STALL_LENGTH * 1.5)
    ]
    share = min(amount * generator.uniform(0.15, 0.6), 0.9)
    poses = []
    for row in rows:
        if row + STALL_LENGTH / 2 > width:
            continue
        for column in np.arange(STALL_WIDTH, length - STALL_WIDTH, STALL_WIDTH):
            if generator.random() < share:
                offset = (column + STALL_WIDTH / 2) * direction(surface.angle)
                centre = corners[0] + offset + row * direction(surface.angle + np.pi / 2)
                poses.append((centre, surface.angle + np.pi / 2))
    return poses


def _on_driveway(surface: Surface) -> tuple[NDArray[np.float64], float]:
    shape = surface.shape
    corners = np.asarray(shape.exterior.coords)
    step = corners[1] - corners[0]
    return shapely.get_coordinates(shape.centroid)[0], float(arctan2(step[1], step[0]))


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
    """Return whether the middle of a car's patch lies on its ground."""
    row = (patch.rows.start + patch.rows.stop) // 2 - ground.rows.start
    column = (patch.columns.start + patch.columns.stop) // 2 - ground.columns.start
    height, width = ground.mask.shape
    return 0 <= row < height and 0 <= column < width and bool(ground.mask[row, column])


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
        drawn: The drawn date.
        base: Land class of the open ground.
        materials: The scene's materials and textures.
        acquisition: Sun and season.
        canvas: The grid.
        cars: Number of cars, 1 being usual.
        generator: Random generator of the cars.
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
        inner = Patch(patch.rows, patch.columns, eroded(patch.mask, kerb))
        fill(albedo, inner, surface.colour, materials.grain, 0.035)
    for surface, patch in roads:
        if surface.style == "marked":
            lane_marks(albedo, patch, surface, canvas)


def _paint_roof_units(building: Building, albedo: Planes, height: Plane, canvas: Canvas) -> None:
    """Paint ventilation boxes on flat roofs; their positions depend on the building's number."""
    for part in building.parts:
        if part.roof != "flat":
            continue
        generator = np.random.default_rng([building.number, round(part.half_length * 100)])
        for _ in range(int(part.half_length * part.half_width / 25)):
            along, across = generator.uniform(-0.8, 0.8, 2) * (part.half_length, part.half_width)
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
    towards = slope_x * np.float32(cos(acquisition.azimuth)) + slope_y * np.float32(sin(acquisition.azimuth))
    lit = (1 + towards / np.float32(tan(acquisition.elevation))) / np.sqrt(1 + slope_x**2 + slope_y**2)
    relief[mask] = np.clip(lit, 0.3, 1.5)
    height[mask] = np.maximum(height[mask], canopy[mask])
    green = (_DRY_TREES * (1 - acquisition.season) + _LUSH_TREES * acquisition.season).astype(np.float32)
    vary = 1 + 0.14 * tint[mask] + 0.16 * materials.speck[mask] + 0.08 * materials.cloud[mask]
    albedo[:, mask] = green[:, None] * np.maximum(vary, 0.4)
