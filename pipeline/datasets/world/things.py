"""Things that are put on a site: houses, large buildings, parking lots, ponds, playgrounds, swimming pools."""

from __future__ import annotations

import numpy as np
import shapely
from shapely import Polygon

from pipeline.datasets.world.geometry import Points, blob, direction, rectangle
from pipeline.datasets.world.houses import hall_parts, house_parts, outline, roof_colour
from pipeline.datasets.world.scene import Building, Dates, Plot, Surface
from pipeline.datasets.world.site import Site, present

_LAWN_COLOURS = np.array([[0.33, 0.38, 0.24], [0.40, 0.42, 0.28], [0.46, 0.42, 0.31]])
_PAVEMENT_COLOURS = np.array([[0.40, 0.40, 0.41], [0.50, 0.50, 0.50], [0.70, 0.68, 0.62]])
_DRIVEWAY, _TRACK, _POOL = np.array([0.74, 0.71, 0.65]), np.array([0.63, 0.32, 0.24]), np.array([0.36, 0.72, 0.82])
_WATER = np.array([0.17, 0.27, 0.33])


def add_house(site: Site, plot: Plot, dates: Dates, *, cleared: bool = False) -> Building | None:
    """Build a house with lawn and driveway on a plot, if the plot is still free.

    Args:
        site: The site.
        plot: Where.
        dates: When it stands.
        cleared: The plot is bare ground while the house is absent.
    """
    inner = plot.ground.buffer(-1.0)
    if not site.is_free(inner):
        return None
    site.taken.append(inner)
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
    middle = wing.centre + plot.front * (plot.setback - length / 2 - float((wing.centre - plot.centre) @ plot.front))
    drive = Polygon(rectangle(middle, length, generator.uniform(3.6, 5.0), np.arctan2(*plot.front[::-1])))
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
    """Build a large building at a given place, whatever stands there."""
    parts = hall_parts(site.generator, centre, length, width, angle)
    building = Building(
        site.number("building"), "building", dates, parts, outline(parts), roof_colour(site.generator, large=True)
    )
    site.buildings.append(building)
    site.taken.append(Polygon(rectangle(centre, length + 4, width + 4, angle)))
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
        others = [other for other in site.taken if not other.contains(building.outline)]
        if visible > 0.7 and not (others and shapely.intersects(np.array(others, dtype=object), shape).any()):
            return add_parking_at(site, dates, shape, body.angle)
    return None


def add_parking_at(site: Site, dates: Dates, shape: Polygon, angle: float) -> Surface:
    """Lay a parking lot of a given shape, its rows along `angle`."""
    surface = site.surface(
        "parking lot", present(dates, shape), site.pick(_PAVEMENT_COLOURS), site.number("parking lot")
    )
    surface.angle = angle
    site.taken.append(shape.buffer(1))
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
            site.taken.append(shape.buffer(1.5))
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
            site.taken.append(shape.buffer(1))
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
            site.taken.append(shape.buffer(1))
            return pool
    return None
