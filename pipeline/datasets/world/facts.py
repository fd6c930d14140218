"""Visible facts of the planned events: counts, positions and ground in the label maps, from which captions are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.datasets.world.elementary import arctan2
from pipeline.datasets.world.geometry import Mask
from pipeline.datasets.world.scene import BOTH_DATES, EventKind, PlannedEvent, Scene
from pipeline.datasets.world.settings import BARELAND, GRASSLAND, LAND_CLASSES, TREE

Third = Literal["low", "middle", "high", "spans", "unsure"]
"""Position along one axis: first third, middle, last third, the whole width, or too near a border to decide."""

LOW_BORDER, HIGH_BORDER, DOUBT, SPAN = 0.37, 0.63, 0.03, 0.72
"""Shares of the picture: borders of the thirds, the undecided margin around them, and the least width that spans it."""

_SMALLEST_EVENT = 0.0018
_VISIBLE_ROAD = 0.012
_TREES_LOST = 0.03
_MANY_TREES = 0.08
_FEW_TREES = 0.4


@dataclass(frozen=True)
class Position:
    """Position of an event: its thirds from left to right and from top to bottom, and its centroid as shares."""

    column: Third
    row: Third
    centroid: tuple[float, float]


@dataclass(frozen=True)
class Event:
    """A visible change; written to objects/<split>.jsonl with its field names.

    Attributes:
        kind: What happens.
        appeared: Instance numbers of visible objects that appear.
        disappeared: Instance numbers of visible objects that disappear.
        altered: Instance numbers whose shape changes.
        count: Number of houses (or of new roads, for roads alone); 1 for single things.
        rows: Number of rows of at least three neighbours that all these houses form, 0 if they do not.
        place: Its position.
        ground: Land class that an appearing thing covers, or None where mixed: bareland, grassland or tree.
        beside_road: It lies beside a road that exists at both dates.
        both_sides: Houses stand on both sides of one road.
        several_roads: Houses stand along more than one road.
        form: Layout of new roads: straight, curved, winding, t-shaped, crossroad, parallel or branch.
        heading: horizontal or vertical for straight new roads that are either, else "".
        trees_lost: None, or how many trees the event fells: some or many.
        among_houses: At least four houses exist at both dates.
        companion: A parking lot is built with the building.
        amount: some or many, of trees.
        few_trees_left: Most of the trees in the picture are removed.
    """

    kind: EventKind
    appeared: tuple[int, ...]
    disappeared: tuple[int, ...]
    altered: tuple[int, ...]
    count: int
    rows: int
    place: Position
    ground: str | None
    beside_road: bool
    both_sides: bool
    several_roads: bool
    form: str
    heading: str
    trees_lost: str | None
    among_houses: bool
    companion: bool
    amount: str
    few_trees_left: bool


@dataclass(frozen=True)
class LabelMaps:
    """Label maps of both dates: land classes uint8 and instance numbers uint16, each (size, size)."""

    land: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    instances: tuple[NDArray[np.uint16], NDArray[np.uint16]]

    @property
    def change(self) -> Mask:
        """Mask (size, size) of the pixels whose land class or instance differs."""
        differs: Mask = (self.land[0] != self.land[1]) | (self.instances[0] != self.instances[1])
        return differs


def position_of(mask: Mask) -> Position:
    """Return the position of the true pixels of a mask (size, size)."""
    rows, columns = np.nonzero(mask)
    size = len(mask)
    centroid = (float(columns.mean() + 0.5) / size, float(rows.mean() + 0.5) / size)
    spans = ((np.ptp(columns) + 1) / size > SPAN, (np.ptp(rows) + 1) / size > SPAN)
    column, row = (_third(share, bool(wide)) for share, wide in zip(centroid, spans, strict=True))
    return Position(column, row, centroid)


def _third(share: float, spans: bool) -> Third:
    if spans and LOW_BORDER - DOUBT < share < HIGH_BORDER + DOUBT:
        return "spans"
    if min(abs(share - LOW_BORDER), abs(share - HIGH_BORDER)) < DOUBT:
        return "unsure"
    if share < LOW_BORDER:
        return "low"
    return "high" if share > HIGH_BORDER else "middle"


def visible_events(scene: Scene, maps: LabelMaps) -> list[Event] | None:
    """Return the visible facts of a scene's events, or None if one of them is not visible enough."""
    events = [_visible_event(scene, planned, maps) for planned in scene.events]
    return None if any(event is None for event in events) else [event for event in events if event is not None]


def _visible_event(scene: Scene, planned: PlannedEvent, maps: LabelMaps) -> Event | None:
    before, after = maps.instances
    mask = np.isin(after, planned.appearing) & np.isin(before, planned.appearing, invert=True)
    mask |= np.isin(before, planned.disappearing) & np.isin(after, planned.disappearing, invert=True)
    if planned.altered:
        mask |= np.isin(after, planned.altered) & ~np.isin(before, planned.altered)
    if planned.kind == "grassland removed":
        mask = (maps.land[0] == GRASSLAND) & (maps.land[1] == BARELAND)
    if mask.mean() < _SMALLEST_EVENT:
        return None
    appeared = _visible_numbers(planned.appearing, after)
    disappeared = _visible_numbers(planned.disappearing, before)
    if len(appeared) < len(planned.appearing) or len(disappeared) < len(planned.disappearing):
        return None
    road_numbers = [number for number in planned.appearing if scene.kinds[number] == "road"]
    if any((after == number).mean() < _VISIBLE_ROAD for number in road_numbers):
        return None
    if planned.kind == "houses replaced":
        count = len(disappeared)
    else:
        counted = [n for n in (*appeared, *disappeared) if scene.kinds[n] == "house"]
        count = len(counted) or len(road_numbers) or 1
    felled = (maps.land[0] == TREE) & (maps.land[1] != TREE)
    near = ndimage.maximum_filter(mask.view(np.uint8), 2 * (len(mask) // 12) + 1).view(np.bool_)
    share = float((felled & near).mean())
    standing = [b for b in scene.buildings if b.kind == "house" and b.dates == BOTH_DATES]
    neighbours = len(_visible_numbers([house.number for house in standing], before))
    return Event(
        kind=planned.kind,
        appeared=appeared,
        disappeared=disappeared,
        altered=tuple(planned.altered),
        count=count,
        rows=_rows(planned),
        place=position_of(mask),
        ground=_ground(maps.land[0][mask]) if planned.appearing else None,
        beside_road=_beside_road(scene, planned, maps),
        both_sides=_both_sides(planned),
        several_roads=len({plot.road for plot in planned.plots}) > 1,
        form=planned.form,
        heading=_heading(scene, road_numbers) if planned.form in ("straight", "branch") else "",
        trees_lost=None if share < _TREES_LOST else "many" if share > _MANY_TREES else "some",
        among_houses=neighbours >= 4,
        companion=bool(planned.companion) and bool((after == planned.companion).mean() > 3 * _SMALLEST_EVENT),
        amount="many" if float(mask.mean()) > _MANY_TREES else "some",
        few_trees_left=bool((maps.land[1] == TREE).sum() < _FEW_TREES * (maps.land[0] == TREE).sum()),
    )


def _visible_numbers(numbers: list[int], instances: NDArray[np.uint16]) -> tuple[int, ...]:
    return tuple(number for number in numbers if (instances == number).mean() >= _SMALLEST_EVENT)


def _ground(classes: NDArray[np.uint8]) -> str | None:
    shares = np.bincount(classes, minlength=len(LAND_CLASSES)) / len(classes)
    best = int(shares.argmax())
    return LAND_CLASSES[best] if best in (BARELAND, GRASSLAND, TREE) and shares[best] > 0.7 else None


def _rows(planned: PlannedEvent) -> int:
    sides: dict[tuple[int, int], int] = {}
    for plot in planned.plots:
        sides[plot.road, plot.side] = sides.get((plot.road, plot.side), 0) + 1
    return len(sides) if sides and min(sides.values()) >= 3 else 0


def _both_sides(planned: PlannedEvent) -> bool:
    sides = [plot.side for plot in planned.plots]
    return planned.along > 0 and min(sides.count(-1), sides.count(1)) >= 2


def _beside_road(scene: Scene, planned: PlannedEvent, maps: LabelMaps) -> bool:
    before, after = maps.instances
    roads = [
        surface
        for surface in scene.surfaces
        if surface.kind == "road"
        and None not in surface.shapes
        and min((before == surface.number).mean(), (after == surface.number).mean()) > _VISIBLE_ROAD
    ]
    if planned.plots:
        beside = {plot.road for plot in planned.plots}
        return beside <= {surface.number for surface in roads}
    numbers = set(planned.appearing + planned.disappearing)
    things = [b.outline for b in scene.buildings if b.number in numbers]
    things += [next(s for s in t.shapes if s is not None) for t in scene.surfaces if t.number in numbers and t.number]
    # Everything that changes must lie within a front yard's depth of the road.
    return bool(things) and any(
        all(shapely.distance(thing, surface.shapes[0]) < 12 for thing in things) for surface in roads
    )


def _heading(scene: Scene, numbers: list[int]) -> str:
    line = next(s.line for s in scene.surfaces if s.number == numbers[0] and s.line is not None)
    step = np.abs(line[-1] - line[0])
    angle = float(np.degrees(arctan2(step[1], step[0])))
    return "horizontal" if angle < 20 else "vertical" if angle > 70 else ""
