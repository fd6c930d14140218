"""The site on which a scene is planned: its road networks, plots, things and free ground."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import shapely
from shapely import Polygon

from pipeline.datasets.world.elementary import arctan2
from pipeline.datasets.world.geometry import (
    Points,
    along_line,
    arc_lengths,
    band,
    blob,
    direction,
    rectangle,
    smooth_curve,
)
from pipeline.datasets.world.scene import (
    BOTH_DATES,
    OPEN_GROUND,
    Building,
    Crown,
    Dates,
    PlannedEvent,
    Plot,
    Road,
    RoadForm,
    Scene,
    Surface,
    SurfaceKind,
)

NetworkForm = Literal["straight", "curved", "winding", "t-shaped", "crossroad", "parallel"]

_OVERHANG = 24.0
"""Metres by which roads continue beyond the picture, so that plots at its edge have neighbours."""


def network_lines(
    generator: np.random.Generator, extent: float, form: NetworkForm, *, cell: tuple[float, float] | None = None
) -> list[tuple[Points, RoadForm]]:
    """Return the centre lines of a road network that crosses the picture.

    Args:
        generator: Random generator.
        extent: Width and height of the picture in metres.
        form: Layout: t-shaped and crossroad have two roads that meet, parallel has two that do not.
        cell: Centre of the network as shares of the extent; random if None.
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


_ROAD_COLOURS = np.array([[0.42, 0.42, 0.42], [0.52, 0.51, 0.49], [0.66, 0.64, 0.60]])
_EDGE = 5.5
"""Metres from the picture's edge at which the centre of a house that changes must lie, so that it can be seen."""


def present(dates: Dates, shape: Polygon) -> tuple[Polygon | None, Polygon | None]:
    """Return the shape at each date, None where the thing is absent."""
    return (shape if dates[0] else None, shape if dates[1] else None)


class Site:
    """The things of a scene that is being planned, and the ground that they occupy.

    Args:
        extent: Width and height of the picture in metres.
        generator: Random generator of everything on the site.
        base: Land class of the open ground.
    """

    def __init__(self, extent: float, generator: np.random.Generator, base: int) -> None:
        self.extent = extent
        self.generator = generator
        self.base = base
        self.surfaces: list[Surface] = []
        self.buildings: list[Building] = []
        self.crowns: list[Crown] = []
        self.kinds: dict[int, str] = {}
        self.roads: list[Road] = []
        self.plots: list[Plot] = []
        self.occupied: list[Polygon] = []
        self.reserved: list[Polygon] = []

    def number(self, kind: str) -> int:
        """Return the next free instance number, for an object of class `kind`."""
        number = len(self.kinds) + 1
        self.kinds[number] = kind
        return number

    def is_free(self, shape: Polygon) -> bool:
        """Return whether nothing stands on `shape` at either date."""
        return not (self.occupied and bool(shapely.intersects(np.array(self.occupied, dtype=object), shape).any()))

    def pick_spot(self, radius: float, cell: tuple[int, int]) -> Points:
        """Return a point in one of the picture's nine cells, at least `radius` metres from the edge."""
        low = np.array(cell) / 3 * self.extent + 2
        high = low + self.extent / 3 - 4
        return np.clip(self.generator.uniform(low, high), radius, self.extent - radius)

    def heading_near(self, point: Points) -> float:
        """Return the direction of the nearest road, or a random one without roads."""
        if not self.roads:
            return float(self.generator.choice([0, np.pi / 2]) + self.generator.normal(0, 0.12))
        target = shapely.Point(point)
        lines = [shapely.LineString(road.line) for road in self.roads]
        nearest = min(lines, key=lambda line: float(line.distance(target)))
        distance = nearest.project(target)
        step = shapely.get_coordinates(nearest.interpolate(distance + 1)) - shapely.get_coordinates(
            nearest.interpolate(distance - 1)
        )
        return float(arctan2(step[0, 1], step[0, 0]))

    def pick(self, palette: Points) -> Points:
        """Return one of a palette's colours, slightly varied."""
        colour: Points = palette[self.generator.integers(len(palette))] + self.generator.normal(0, 0.015, 3)
        return colour

    def surface(
        self, kind: SurfaceKind, shapes: tuple[Polygon | None, Polygon | None], colour: Points, number: int = 0
    ) -> Surface:
        """Add a flat thing and return it."""
        surface = Surface(number, kind, shapes, colour)
        self.surfaces.append(surface)
        return surface

    def clear(self, shapes: tuple[Polygon | None, Polygon | None]) -> None:
        """Add bare ground."""
        self.surface("clearing", shapes, OPEN_GROUND)

    def add_network(self, form: NetworkForm, dates: Dates, cell: tuple[float, float] | None = None) -> list[Road]:
        """Lay a road network with plots along it."""
        roads = []
        width = float(self.generator.uniform(6.5, 9.5))
        colour = self.pick(_ROAD_COLOURS)
        for line, road_form in network_lines(self.generator, self.extent, form, cell=cell):
            road = Road(self.number("road"), line, width, road_form, dates)
            self.add_road(road, present(dates, band(line, width)), colour)
            roads.append(road)
        return roads

    def add_free_road(self) -> None:
        """Add one road that exists at both dates, if it crosses nothing on the site."""
        form: NetworkForm = "straight" if self.generator.random() < 0.5 else "curved"
        line, road_form = network_lines(self.generator, self.extent, form)[0]
        width = float(self.generator.uniform(6.5, 9.5))
        shape = band(line, width)
        if self.is_free(shape):
            road = Road(self.number("road"), line, width, road_form, BOTH_DATES)
            self.add_road(road, (shape, shape), self.pick(_ROAD_COLOURS))

    def add_branch(self, dates: Dates) -> Road | None:
        """Add a road that leaves an existing one at a right angle; return None where there is no room for it."""
        for _ in range(6):
            parent = self.roads[self.generator.integers(len(self.roads))]
            start, end = visible_span(parent.line, self.extent)
            distance = start + (end - start) * self.generator.uniform(0.25, 0.75)
            whole = shapely.LineString(parent.line)
            joint = shapely.get_coordinates(whole.interpolate(distance))[0]
            ahead = shapely.get_coordinates(whole.interpolate(distance + 1))[0]
            heading = arctan2(*(ahead - joint)[::-1]) + self.generator.choice([-1, 1]) * np.pi / 2
            reach = self.generator.uniform(0.8, 1.4) * self.extent
            line = np.linspace(joint, joint + direction(heading + self.generator.normal(0, 0.08)) * reach, 6)
            start, end = visible_span(line, self.extent)
            beyond = shapely.LineString(line[1:])
            crosses = any(shapely.LineString(road.line).intersects(beyond) for road in self.roads)
            if end - start > 0.35 * self.extent and not crosses:
                road = Road(self.number("road"), line, parent.width, "straight", dates)
                self.add_road(road, present(dates, band(line, road.width)), self.pick(_ROAD_COLOURS))
                return road
        return None

    def add_road(self, road: Road, shapes: tuple[Polygon | None, Polygon | None], colour: Points) -> None:
        """Add a road that has a given shape at either date, and lay plots along it."""
        surface = self.surface("road", shapes, colour, road.number)
        surface.line = road.line
        surface.style = "marked" if road.width > 7.5 and colour.mean() < 0.6 else ""
        self.roads.append(road)
        self.occupied.append(shapely.union_all([shape for shape in shapes if shape is not None]))
        self.plots.extend(plots_along(self.generator, road, self.extent))

    def free_rows(self, roads: Iterable[Road], *, edge: float = _EDGE) -> list[list[Plot]]:
        """Return the runs of neighbouring free plots along `roads`, longest first."""
        numbers = {road.number for road in roads}
        rows: dict[tuple[int, int], list[Plot]] = {}
        for plot in self.plots:
            inside = bool((plot.centre > edge).all() and (plot.centre < self.extent - edge).all())
            # A little narrower than the plot: neighbours share a fence.
            if plot.road in numbers and inside and self.is_free(plot.ground.buffer(-1.0)):
                rows.setdefault((plot.road, plot.side), []).append(plot)
        return sorted(rows.values(), key=len, reverse=True)

    def free_region(self, cell: tuple[int, int], radius: tuple[float, float]) -> Polygon | None:
        """Return an organic region of free ground in one of the nine cells, or None where there is no room."""
        for _ in range(14):
            size = self.generator.uniform(*radius)
            shape = Polygon(blob(self.generator, self.pick_spot(size * 0.8, cell), size, stretch=1.4, wobble=0.15))
            if shape.is_valid and self.is_free(shape):
                return shape
        return None

    def scene(self, events: list[PlannedEvent]) -> Scene:
        """Return the finished plan."""
        order = {
            "clearing": 0,
            "meadow": 0,
            "pond": 1,
            "lawn": 2,
            "driveway": 3,
            "parking lot": 4,
            "playground": 4,
            "swimming pool": 5,
            "road": 6,
        }
        # A new road is painted first, so that an old one that it meets stays uninterrupted.
        ordered = sorted(self.surfaces, key=lambda s: (order[s.kind], s.kind == "road" and s.shapes[0] is not None))
        return Scene(self.extent, self.base, ordered, self.buildings, self.crowns, dict(self.kinds), events)
