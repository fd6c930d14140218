"""Planners of change events on a site, and the plan of a whole scene with its surroundings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from shapely import LineString, Polygon

from pipeline.datasets.world.elementary import hypot
from pipeline.datasets.world.geometry import arc_lengths, band, rectangle
from pipeline.datasets.world.scene import (
    AFTER_ONLY,
    BEFORE_ONLY,
    BOTH_DATES,
    Building,
    EventKind,
    PlannedEvent,
    Plot,
    Road,
    Scene,
)
from pipeline.datasets.world.settings import BARELAND, GRASSLAND
from pipeline.datasets.world.site import NetworkForm, Site, network_lines, visible_span
from pipeline.datasets.world.things import (
    add_grove,
    add_hall,
    add_hall_at,
    add_house,
    add_parking,
    add_parking_beside,
    add_playground,
    add_pond,
    add_pool,
    plant,
)

_NETWORKS: tuple[NetworkForm, ...] = (
    *("straight", "straight", "curved", "curved", "winding"),
    *("t-shaped", "t-shaped", "crossroad", "crossroad", "parallel"),
)
"""Road networks, repeated by their frequency."""

Planner = Callable[[Site], PlannedEvent | None]


def _cell(site: Site) -> tuple[int, int]:
    column, row = site.generator.integers(0, 3, 2)
    return int(column), int(row)


def _existing_roads(site: Site) -> list[Road]:
    if not site.roads:
        site.add_network(_NETWORKS[site.generator.integers(len(_NETWORKS))], BOTH_DATES)
    return [road for road in site.roads if road.dates == BOTH_DATES]


def choose_plots(site: Site, roads: list[Road]) -> list[Plot]:
    """Choose free plots for an event: one, two, a few neighbours, a whole row, or many on several sides."""
    rows = site.free_rows(roads)
    if not rows:
        return []
    generator = site.generator
    size = generator.choice(["one", "two", "few", "row", "many"], p=[0.22, 0.18, 0.2, 0.2, 0.2])
    if size == "many":
        return [plot for row in rows[: generator.integers(2, 5)] for plot in row]
    usable = [row for row in rows if len(row) >= 4] if size == "row" else rows
    row = usable[generator.integers(len(usable))] if usable else rows[0]
    count = {"one": 1, "two": 2, "few": int(generator.integers(3, 6)), "row": len(row)}[str(size)]
    start = int(generator.integers(0, max(len(row) - count, 0) + 1))
    return row[start : start + count]


def _houses_on(site: Site, plots: list[Plot], *, demolished: bool = False) -> list[tuple[Plot, Building]]:
    dates = BEFORE_ONLY if demolished else AFTER_ONLY
    built = [(plot, add_house(site, plot, dates, cleared=demolished)) for plot in plots]
    return [(plot, house) for plot, house in built if house is not None]


def _houses_event(kind: EventKind, built: list[tuple[Plot, Building]], *, demolished: bool) -> PlannedEvent:
    numbers = [house.number for _, house in built]
    plots = [plot for plot, _ in built]
    roads = {plot.road for plot in plots}
    event = PlannedEvent(kind, plots=plots, along=roads.pop() if len(roads) == 1 else 0)
    (event.disappearing if demolished else event.appearing).extend(numbers)
    return event


def houses(site: Site) -> PlannedEvent | None:
    """Plan houses that are built along existing roads."""
    built = _houses_on(site, choose_plots(site, _existing_roads(site)))
    return _houses_event("houses", built, demolished=False) if built else None


def houses_demolished(site: Site) -> PlannedEvent | None:
    """Plan houses along existing roads that are demolished."""
    built = _houses_on(site, choose_plots(site, _existing_roads(site)), demolished=True)
    return _houses_event("houses demolished", built, demolished=True) if built else None


def _new_roads(site: Site) -> tuple[list[Road], str] | None:
    if site.roads:
        branch = site.add_branch(AFTER_ONLY)
        return None if branch is None else ([branch], "branch")
    form = _NETWORKS[site.generator.integers(len(_NETWORKS))]
    return site.add_network(form, AFTER_ONLY), form


def _add_old_road(site: Site, chance: float) -> None:
    if not site.roads and site.generator.random() < chance:
        site.add_network("straight" if site.generator.random() < 0.5 else "curved", BOTH_DATES)


def road(site: Site) -> PlannedEvent | None:
    """Plan a road, or a network of roads, that is built."""
    _add_old_road(site, 0.4)
    new = _new_roads(site)
    if new is None:
        return None
    return PlannedEvent("road", appearing=[road.number for road in new[0]], form=new[1])


def road_and_houses(site: Site) -> PlannedEvent | None:
    """Plan a road that is built with houses along it."""
    _add_old_road(site, 0.3)
    new = _new_roads(site)
    if new is None:
        return None
    roads, form = new
    rows = site.free_rows(roads)
    plots = [plot for row in rows[: site.generator.integers(1, 5)] for plot in row]
    built = _houses_on(site, plots)
    if not built:
        return None
    event = _houses_event("road and houses", built, demolished=False)
    event.form = form
    event.appearing = [road.number for road in roads] + event.appearing
    return event


def road_extended(site: Site) -> PlannedEvent | None:
    """Plan a road that ends in the picture and is extended to its edge."""
    if site.roads:
        return None
    line, form = network_lines(site.generator, site.extent, "straight")[0]
    line = np.linspace(line[0], line[-1], 60)
    if site.generator.random() < 0.5:
        line = line[::-1]
    start, end = visible_span(line, site.extent)
    stop = start + (end - start) * site.generator.uniform(0.3, 0.6)
    short = line[arc_lengths(line) <= stop]
    width = float(site.generator.uniform(7, 9.5))
    road = Road(site.number("road"), line, width, form, BOTH_DATES)
    site.add_road(road, (band(short, width), band(line, width)), site.pick(np.array([[0.46, 0.46, 0.46]])))
    # Beside the part that does not exist yet, plots would have no road.
    site.plots = [plot for plot in site.plots if plot.distance < stop - 10]
    return PlannedEvent("road extended", altered=[road.number])


def road_widened(site: Site) -> PlannedEvent | None:
    """Plan a narrow road that is widened."""
    if site.roads:
        return None
    form: NetworkForm = "straight" if site.generator.random() < 0.7 else "curved"
    line, road_form = network_lines(site.generator, site.extent, form)[0]
    narrow = float(site.generator.uniform(5, 6.5))
    wide = narrow + float(site.generator.uniform(7, 10))
    road = Road(site.number("road"), line, wide, road_form, BOTH_DATES)
    site.add_road(road, (band(line, narrow), band(line, wide)), site.pick(np.array([[0.46, 0.46, 0.46]])))
    return PlannedEvent("road widened", altered=[road.number])


def large_building(site: Site) -> PlannedEvent | None:
    """Plan a large building that is built, sometimes with a parking lot."""
    if site.generator.random() < 0.5:
        _existing_roads(site)
    hall = add_hall(site, AFTER_ONLY, _cell(site))
    if hall is None:
        return None
    event = PlannedEvent("large building", appearing=[hall.number])
    if site.generator.random() < 0.4:
        lot = add_parking_beside(site, hall, AFTER_ONLY)
        event.companion = lot.number if lot else 0
    return event


def building_demolished(site: Site) -> PlannedEvent | None:
    """Plan a large building that is demolished and leaves bare ground."""
    hall = add_hall(site, BEFORE_ONLY, _cell(site))
    if hall is None:
        return None
    site.clear((None, hall.outline.buffer(2)))
    return PlannedEvent("building demolished", disappearing=[hall.number])


def houses_replaced(site: Site) -> PlannedEvent | None:
    """Plan neighbouring houses that are replaced by one large building."""
    roads = [road for road in _existing_roads(site) if road.form == "straight"]
    rows = [row for row in site.free_rows(roads) if len(row) >= 3]
    if not rows:
        return None
    row = rows[site.generator.integers(len(rows))]
    start = int(site.generator.integers(0, len(row) - 2))
    plots = row[start : start + int(site.generator.integers(3, 5))]
    ends = np.stack([plots[0].centre, plots[-1].centre])
    centre, angle = ends.mean(axis=0), plots[0].angle
    length, width = float(hypot(*(ends[1] - ends[0]))) + 8, float(site.generator.uniform(17, 20))
    ground = Polygon(rectangle(centre, length, width, angle))
    # The plots of a row may lie on both sides of a crossing road.
    if any(ground.intersects(LineString(road.line)) for road in site.roads):
        return None
    built = _houses_on(site, plots, demolished=True)
    if len(built) < 3:
        return None
    event = _houses_event("houses replaced", built, demolished=True)
    event.appearing = [add_hall_at(site, AFTER_ONLY, centre, length, width, angle).number]
    return event


def parking_lot(site: Site) -> PlannedEvent | None:
    """Plan a parking lot that is built."""
    lot = add_parking(site, AFTER_ONLY, _cell(site))
    return PlannedEvent("parking lot", appearing=[lot.number]) if lot else None


def playground(site: Site) -> PlannedEvent | None:
    """Plan a playground that is built."""
    ground = add_playground(site, AFTER_ONLY, _cell(site))
    return PlannedEvent("playground", appearing=[ground.number]) if ground else None


def pond(site: Site) -> PlannedEvent | None:
    """Plan a pond that appears."""
    water = add_pond(site, AFTER_ONLY, _cell(site))
    return PlannedEvent("pond", appearing=[water.number]) if water else None


def pond_dried(site: Site) -> PlannedEvent | None:
    """Plan a pond that dries up."""
    water = add_pond(site, BEFORE_ONLY, _cell(site))
    return PlannedEvent("pond dried", disappearing=[water.number]) if water else None


def swimming_pool(site: Site) -> PlannedEvent | None:
    """Plan a swimming pool that is built beside a house that exists at both dates."""
    rows = site.free_rows(_existing_roads(site), edge=14)
    if not rows:
        return None
    row = rows[site.generator.integers(len(rows))]
    house = add_house(site, row[site.generator.integers(len(row))], BOTH_DATES)
    pool = add_pool(site, house, AFTER_ONLY) if house else None
    return PlannedEvent("swimming pool", appearing=[pool.number]) if pool else None


def _reserve(site: Site, region: Polygon) -> None:
    site.occupied.append(region)
    site.reserved.append(region.buffer(3))


def trees_removed(site: Site) -> PlannedEvent | None:
    """Plan a grove that is cleared and leaves bare ground."""
    region = site.free_region(_cell(site), (18, 30))
    if region is None:
        return None
    number = add_grove(site, region, BEFORE_ONLY)
    site.clear((None, region.buffer(2)))
    _reserve(site, region)
    return PlannedEvent("trees removed", disappearing=[number])


def trees_planted(site: Site) -> PlannedEvent | None:
    """Plan a grove that is planted on open ground."""
    region = site.free_region(_cell(site), (15, 24))
    if region is None:
        return None
    number = add_grove(site, region, AFTER_ONLY)
    _reserve(site, region)
    return PlannedEvent("trees planted", appearing=[number])


def grassland_removed(site: Site) -> PlannedEvent | None:
    """Plan a part of the grassland that becomes bare ground."""
    if site.base != GRASSLAND:
        return None
    region = site.free_region(_cell(site), (18, 32))
    if region is None:
        return None
    site.clear((None, region))
    _reserve(site, region)
    return PlannedEvent("grassland removed")


PLANNERS: dict[EventKind, tuple[float, Planner]] = {
    "houses": (0.24, houses),
    "road and houses": (0.14, road_and_houses),
    "road": (0.09, road),
    "road extended": (0.05, road_extended),
    "road widened": (0.04, road_widened),
    "large building": (0.09, large_building),
    "parking lot": (0.05, parking_lot),
    "trees removed": (0.05, trees_removed),
    "grassland removed": (0.05, grassland_removed),
    "houses demolished": (0.07, houses_demolished),
    "building demolished": (0.03, building_demolished),
    "pond": (0.04, pond),
    "pond dried": (0.03, pond_dried),
    "houses replaced": (0.05, houses_replaced),
    "swimming pool": (0.04, swimming_pool),
    "playground": (0.04, playground),
    "trees planted": (0.03, trees_planted),
}
"""Probability and planner of each kind of event."""

SECOND_EVENTS: tuple[EventKind, ...] = (
    "large building",
    "parking lot",
    "playground",
    "pond",
    "pond dried",
    "trees removed",
    "houses demolished",
    "houses",
)
"""Kinds of second events: they need only free ground or plots along a road."""


def draw_kind(generator: np.random.Generator) -> EventKind:
    """Draw the kind of a scene's event by its probability."""
    kinds = list(PLANNERS)
    weights = np.array([PLANNERS[kind][0] for kind in kinds])
    return kinds[generator.choice(len(kinds), p=weights / weights.sum())]


def plan_scene(
    generator: np.random.Generator, extent: float, kind: EventKind, second_event_share: float
) -> Scene | None:
    """Plan a scene with an event of a given kind, and sometimes a second one.

    Args:
        generator: Random generator.
        extent: Width and height in metres.
        kind: The first event.
        second_event_share: Probability of trying a second event.

    Returns:
        The scene, or None where the event has no room.
    """
    base = GRASSLAND if kind == "grassland removed" or generator.random() < 0.55 else BARELAND
    site = Site(extent, generator, base)
    event = PLANNERS[kind][1](site)
    if event is None:
        return None
    events = [event]
    if generator.random() < second_event_share:
        events += _second_event(site, kind)
    _surroundings(site)
    plant(site, wooded=generator.random() < 0.3)
    return site.scene(events)


def _second_event(site: Site, first: EventKind) -> list[PlannedEvent]:
    # Of two events about houses, a caption's count would fit neither alone; likewise of trees.
    family = first.split()[0]
    choices = [
        kind for kind in SECOND_EVENTS if kind.split()[0] != family and not ("houses" in first and "houses" in kind)
    ]
    kind = choices[site.generator.integers(len(choices))]
    second = PLANNERS[kind][1](site)
    return [second] if second else []


def _surroundings(site: Site) -> None:
    generator = site.generator
    if not site.roads and generator.random() < 0.35:
        site.add_free_road()
    old = [road for road in site.roads if road.dates == BOTH_DATES]
    share = float(generator.choice([0.0, 0.3, 0.85], p=[0.3, 0.3, 0.4]))
    for row in site.free_rows(old, edge=-4):
        for plot in row:
            if generator.random() < share:
                house = add_house(site, plot, BOTH_DATES)
                if house and generator.random() < 0.06:
                    add_pool(site, house, BOTH_DATES)
    for chance, add in (
        (0.12, add_hall),
        (0.08, add_parking),
        (0.12, add_pond),
        (0.06, add_playground),
    ):
        if generator.random() < chance:
            column, row_index = generator.integers(0, 3, 2)
            add(site, BOTH_DATES, (int(column), int(row_index)))
