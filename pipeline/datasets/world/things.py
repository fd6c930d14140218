"""Things that are placed on a site: houses, large buildings, parking lots, ponds, sports grounds, pools and trees.

Buildings are overlapping rectangles with roofs.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from pipeline.datasets.world.elementary import arctan2
from pipeline.datasets.world.geometry import Mask, Points, blob, direction, rectangle
from pipeline.datasets.world.scene import (
    BOTH_DATES,
    OPEN_GROUND,
    Building,
    Crown,
    Dates,
    Plot,
    RoofKind,
    RoofPart,
    Surface,
    SurfaceKind,
)
from pipeline.datasets.world.settings import GRASSLAND
from pipeline.datasets.world.site import Site, present

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


_LAWN_COLOURS = np.array([[0.33, 0.38, 0.24], [0.40, 0.42, 0.28], [0.46, 0.42, 0.31]])
_PAVEMENT_COLOURS = np.array([[0.40, 0.40, 0.41], [0.50, 0.50, 0.50], [0.70, 0.68, 0.62]])
_DRIVEWAY, _TRACK, _POOL = np.array([0.74, 0.71, 0.65]), np.array([0.63, 0.32, 0.24]), np.array([0.36, 0.72, 0.82])
_WATER = np.array([0.17, 0.27, 0.33])


def add_house(site: Site, plot: Plot, dates: Dates, *, cleared: bool = False) -> Building | None:
    """Build a house with lawn and driveway on a plot, if the plot is still free.

    Args:
        site: The site.
        plot: The plot.
        dates: When the house exists.
        cleared: The plot is bare ground while the house is absent.
    """
    inner = plot.ground.buffer(-1.0)
    if not site.is_free(inner):
        return None
    site.occupied.append(inner)
    generator = site.generator
    angle = plot.angle + generator.normal(0, 0.04)
    parts = house_parts(generator, plot.centre, angle, plot.front)
    building = Building(
        site.number("house"), "house", dates, parts, outline(parts), roof_colour(generator, large=False)
    )
    site.buildings.append(building)
    lawn = plot.ground.buffer(-0.3)
    site.surface("lawn", present(dates, lawn), site.pick(_LAWN_COLOURS)).style = (
        "fenced" if generator.random() < 0.6 else ""
    )
    if cleared:
        site.clear(present((not dates[0], not dates[1]), lawn))
    wing = parts[1]
    length = plot.setback - 4.0
    middle = wing.centre + plot.front * (
        plot.setback - length / 2 - float(((wing.centre - plot.centre) * plot.front).sum())
    )
    drive = Polygon(rectangle(middle, length, generator.uniform(3.6, 5.0), arctan2(*plot.front[::-1])))
    site.surface("driveway", present(dates, drive), _DRIVEWAY)
    return building


def add_hall(site: Site, dates: Dates, cell: tuple[int, int], *, attempts: int = 14) -> Building | None:
    """Build a large building in one of the nine cells, if there is room."""
    generator = site.generator
    for _ in range(attempts):
        length, width = generator.uniform(30, 46), generator.uniform(18, 28)
        centre = site.pick_spot(14, cell)
        angle = site.heading_near(centre)
        if site.is_free(Polygon(rectangle(centre, length + 5, width + 5, angle))):
            return add_hall_at(site, dates, centre, length, width, angle)
    return None


def add_hall_at(site: Site, dates: Dates, centre: Points, length: float, width: float, angle: float) -> Building:
    """Build a large building at a given position, whatever stands there."""
    parts = hall_parts(site.generator, centre, length, width, angle)
    building = Building(
        site.number("building"), "building", dates, parts, outline(parts), roof_colour(site.generator, large=True)
    )
    site.buildings.append(building)
    site.occupied.append(Polygon(rectangle(centre, length + 4, width + 4, angle)))
    return building


def add_parking(site: Site, dates: Dates, cell: tuple[int, int]) -> Surface | None:
    """Lay a parking lot in one of the nine cells, if there is room."""
    for _ in range(14):
        length, width = site.generator.uniform(30, 44), site.generator.uniform(18, 28)
        centre = site.pick_spot(14, cell)
        angle = site.heading_near(centre)
        shape = Polygon(rectangle(centre, length, width, angle))
        if site.is_free(shape.buffer(2)):
            return add_parking_at(site, dates, shape, angle)
    return None


def add_parking_beside(site: Site, building: Building, dates: Dates) -> Surface | None:
    """Lay a parking lot along one of a large building's sides, if there is room."""
    body = building.parts[0]
    for side in site.generator.permutation([-1, 1]):
        away = direction(body.angle + side * np.pi / 2)
        width = float(site.generator.uniform(15, 20))
        centre = body.centre + away * (body.half_width + width / 2 + 3)
        shape = Polygon(rectangle(centre, 2 * body.half_length * 0.95, width, body.angle))
        visible = shape.intersection(shapely.box(0, 0, site.extent, site.extent)).area / shape.area
        others = [other for other in site.occupied if not other.contains(building.outline)]
        if visible > 0.7 and not (others and shapely.intersects(np.array(others, dtype=object), shape).any()):
            return add_parking_at(site, dates, shape, body.angle)
    return None


def add_parking_at(site: Site, dates: Dates, shape: Polygon, angle: float) -> Surface:
    """Lay a parking lot of a given shape, its rows along `angle`."""
    surface = site.surface(
        "parking lot", present(dates, shape), site.pick(_PAVEMENT_COLOURS), site.number("parking lot")
    )
    surface.angle = angle
    site.occupied.append(shape.buffer(1))
    return surface


def add_pond(site: Site, dates: Dates, cell: tuple[int, int]) -> Surface | None:
    """Dig a pond in one of the nine cells, if there is room; where it dries up the ground is bare."""
    for _ in range(14):
        radius = site.generator.uniform(10, 17)
        centre = site.pick_spot(radius, cell)
        shape = Polygon(blob(site.generator, centre, radius, stretch=site.generator.uniform(1, 1.8), wobble=0.22))
        if shape.is_valid and site.is_free(shape.buffer(2)):
            if not dates[1]:
                site.clear((None, shape))
            site.occupied.append(shape.buffer(1.5))
            colour = _WATER + site.generator.normal(0, 0.015, 3)
            return site.surface("pond", present(dates, shape), colour, site.number("pond"))
    return None


def add_playground(site: Site, dates: Dates, cell: tuple[int, int]) -> Surface | None:
    """Lay a sports ground in one of the nine cells, if there is room."""
    for _ in range(14):
        length, width = site.generator.uniform(34, 46), site.generator.uniform(20, 26)
        centre = site.pick_spot(15, cell)
        angle = site.heading_near(centre)
        core = shapely.LineString(
            [centre - direction(angle) * (length - width) / 2, centre + direction(angle) * (length - width) / 2]
        )
        shape = core.buffer(width / 2, quad_segs=8)
        if site.is_free(shape.buffer(2)):
            surface = site.surface("playground", present(dates, shape), _TRACK, site.number("playground"))
            surface.angle = angle
            site.occupied.append(shape.buffer(1))
            return surface
    return None


def add_pool(site: Site, house: Building, dates: Dates) -> Surface | None:
    """Dig a swimming pool behind or beside a house, if there is room."""
    body = house.parts[0]
    for _ in range(16):
        turn = site.generator.uniform(0, 2 * np.pi)
        centre = body.centre + direction(turn) * site.generator.uniform(11, 15)
        if not (np.all(centre > 5) and np.all(centre < site.extent - 5)):
            continue
        shape = Polygon(rectangle(centre, site.generator.uniform(8, 10), site.generator.uniform(5, 6), body.angle))
        blockers = [other.outline.buffer(1) for other in site.buildings]
        blockers += [
            s for surface in site.surfaces if surface.kind not in ("lawn", "clearing") for s in surface.shapes if s
        ]
        if not shapely.intersects(np.array(blockers, dtype=object), shape.buffer(1)).any():
            pool = site.surface("swimming pool", present(dates, shape), _POOL, site.number("swimming pool"))
            pool.angle = body.angle
            site.occupied.append(shape.buffer(1))
            return pool
    return None


def add_grove(site: Site, region: Polygon, dates: Dates) -> int:
    """Plant a grove of touching crowns and return its instance number."""
    number = site.number("woods")
    left, top, right, bottom = region.bounds
    spacing = 5.2
    columns, rows = np.meshgrid(np.arange(left, right, spacing), np.arange(top, bottom, spacing * 0.87))
    columns[1::2] += spacing / 2
    points = np.stack([columns.ravel(), rows.ravel()], axis=1)
    points += site.generator.normal(0, 1.0, points.shape)
    reach = site.extent + 6
    points = points[(points > -6).all(axis=1) & (points < reach).all(axis=1)]
    points = points[shapely.contains_xy(region, points) & ~_reserved(site, points)]
    radii = site.generator.uniform(2.6, 4.4, len(points))
    tints = site.generator.normal(0, 1, len(points))
    site.crowns.extend(
        Crown(number, point, float(radius), dates, float(tint))
        for point, radius, tint in zip(points, radii, tints, strict=True)
    )
    return number


def plant(site: Site, *, wooded: bool) -> None:
    """Add patches of other ground, groves or woods, single trees and gardens."""
    generator = site.generator
    if generator.random() < 0.5:
        _vary_ground(site)
    if wooded:
        for _ in range(int(generator.integers(1, 4))):
            centre = generator.uniform(0, site.extent, 2)
            outline = blob(generator, centre, generator.uniform(28, 55), stretch=1.3, wobble=0.15)
            add_grove(site, shapely.make_valid(Polygon(outline)), BOTH_DATES)
    elif generator.random() < 0.6:
        for _ in range(int(generator.integers(1, 3))):
            column, row = generator.integers(0, 3, 2)
            region = site.free_region((int(column), int(row)), (8, 18))
            if region is not None:
                add_grove(site, region, BOTH_DATES)
    _scatter_trees(site, int(generator.choice([4, 12, 28], p=[0.35, 0.4, 0.25])))
    _plant_gardens(site, share=float(generator.choice([0.0, 0.4, 0.8])))


def _reserved(site: Site, points: Points) -> Mask:
    """Return which points (n, 2) lie in regions that an event reserves."""
    hit: Mask = np.zeros(len(points), dtype=np.bool_)
    for region in site.reserved:
        hit |= shapely.contains_xy(region, points)
    return hit


def _scatter_trees(site: Site, count: int) -> None:
    generator = site.generator
    points = generator.uniform(0, site.extent, (count, 2))
    for centre in points[~_reserved(site, points)]:
        radius, tint = float(generator.uniform(1.8, 4.4)), float(generator.normal(0, 1))
        site.crowns.append(Crown(site.number("tree"), centre, radius, BOTH_DATES, tint))


def _plant_gardens(site: Site, share: float) -> None:
    """Plant a tree beside some of the houses that stand at both dates."""
    generator = site.generator
    for house in site.buildings:
        if house.kind == "house" and house.dates == BOTH_DATES and generator.random() < share:
            centre = house.parts[0].centre + direction(generator.uniform(0, 2 * np.pi)) * generator.uniform(8.5, 11)
            radius, tint = float(generator.uniform(1.5, 2.8)), float(generator.normal(0, 1))
            site.crowns.append(Crown(site.number("tree"), centre, radius, BOTH_DATES, tint, garden=True))


def _vary_ground(site: Site) -> None:
    """Add patches: bare spots in grassland, grass in bareland."""
    generator = site.generator
    kind: SurfaceKind = "clearing" if site.base == GRASSLAND else "meadow"
    for _ in range(int(generator.integers(1, 4))):
        centre, radius = generator.uniform(0, site.extent, 2), generator.uniform(10, 38)
        patch = shapely.make_valid(Polygon(blob(generator, centre, radius, stretch=1.6, wobble=0.3)))
        # Patches lie under everything else, so they are painted first.
        site.surfaces.insert(0, Surface(0, kind, (patch, patch), OPEN_GROUND))
