"""Plans a whole scene: ground, events, and everything that stands around them."""

from __future__ import annotations

import numpy as np

from pipeline.datasets.world.classes import BARELAND, GRASSLAND
from pipeline.datasets.world.events import PLANNERS, SECOND_EVENTS
from pipeline.datasets.world.scene import STAYS, EventKind, PlannedEvent, Scene
from pipeline.datasets.world.site import Site
from pipeline.datasets.world.things import add_hall, add_house, add_parking, add_playground, add_pond, add_pool
from pipeline.datasets.world.vegetation import plant


def draw_kind(generator: np.random.Generator) -> EventKind:
    """Draw what shall happen in a scene, by how often it is wanted."""
    kinds = list(PLANNERS)
    weights = np.array([PLANNERS[kind][0] for kind in kinds])
    return kinds[generator.choice(len(kinds), p=weights / weights.sum())]


def plan_scene(
    generator: np.random.Generator, extent: float, kind: EventKind, second_event_share: float
) -> Scene | None:
    """Plan a scene in which an event of a given kind happens, and sometimes a second one.

    Args:
        generator: Source of chance.
        extent: Width and height in metres.
        kind: The first event.
        second_event_share: How often a second event is tried.

    Returns:
        The scene, or None where the event found no room.
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
    # Two events about houses would make one count of two sentences; two of trees likewise.
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
    old = [road for road in site.roads if road.dates == STAYS]
    share = float(generator.choice([0.0, 0.3, 0.85], p=[0.3, 0.3, 0.4]))
    for row in site.free_rows(old, edge=-4):
        for plot in row:
            if generator.random() < share:
                house = add_house(site, plot, STAYS)
                if house and generator.random() < 0.06:
                    add_pool(site, house, STAYS)
    for chance, add in (
        (0.12, add_hall),
        (0.08, add_parking),
        (0.12, add_pond),
        (0.06, add_playground),
    ):
        if generator.random() < chance:
            column, row_index = generator.integers(0, 3, 2)
            add(site, STAYS, (int(column), int(row_index)))
