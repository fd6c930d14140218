"""Records of a planned scene: things with a shape per date, trees, plots and planned events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

from pipeline.datasets.world.geometry import Points

Dates = tuple[bool, bool]
"""Whether a thing exists before, and after."""

BOTH_DATES: Dates = (True, True)
AFTER_ONLY: Dates = (False, True)
BEFORE_ONLY: Dates = (True, False)

OPEN_GROUND = np.zeros(3)
"""Colour of surfaces that have none of their own."""

SurfaceKind = Literal[
    "clearing", "meadow", "lawn", "pond", "road", "driveway", "parking lot", "playground", "swimming pool"
]
RoofKind = Literal["hip", "gable", "flat"]
RoadForm = Literal["straight", "curved", "winding"]


@dataclass
class Surface:
    """A flat thing on the ground.

    Attributes:
        number: Instance number, 0 for ground that is no object (lawns, driveways, clearings).
        kind: What it is.
        shapes: Its polygon in metres at either date, None while it is absent. A road that is widened has two shapes.
        colour: Albedo (3,) between 0 and 1; clearings and meadows take that of the scene's ground, `OPEN_GROUND`.
        line: Centre line (n, 2) of roads, for their markings.
        angle: Direction in radians of a parking lot's rows and a playground's long side.
        style: Variant of the markings, or "" for none.
    """

    number: int
    kind: SurfaceKind
    shapes: tuple[Polygon | None, Polygon | None]
    colour: NDArray[np.float64]
    line: Points | None = None
    angle: float = 0.0
    style: str = ""

    @property
    def shape(self) -> Polygon:
        """The polygon at the first date at which there is one."""
        before, after = self.shapes
        return before if before is not None else after


@dataclass
class RoofPart:
    """A rectangle under one roof: centre (2,) in metres, half length along `angle`, half width across it."""

    centre: Points
    half_length: float
    half_width: float
    angle: float
    roof: RoofKind
    eaves: float
    """Height of the eaves in metres."""
    pitch: float
    """Slope of the roof in radians."""


@dataclass
class Building:
    """A house or a large building: overlapping parts under one roof colour."""

    number: int
    kind: Literal["house", "building"]
    dates: Dates
    parts: list[RoofPart]
    outline: Polygon
    colour: NDArray[np.float64]


@dataclass
class Crown:
    """One tree crown; crowns of a grove share the grove's instance number."""

    number: int
    centre: Points
    radius: float
    dates: Dates
    tint: float
    garden: bool = False
    """Whether it stands on a lawn, where other trees are removed."""


@dataclass
class Road:
    """A road, along which plots are laid whatever its dates."""

    number: int
    line: Points
    width: float
    form: RoadForm
    dates: Dates


@dataclass
class Plot:
    """A building plot beside a road.

    Attributes:
        road: The road's instance number.
        side: +1 or -1, the side of the road.
        distance: Metres along the road.
        centre: Where the house goes (2,), metres.
        angle: The road's direction in radians.
        ground: The whole plot as a polygon.
        front: Unit vector (2,) from the house towards the road.
        setback: Distance from the house's centre to the road's edge in metres.
    """

    road: int
    side: int
    distance: float
    centre: Points
    angle: float
    ground: Polygon
    front: Points
    setback: float


EventKind = Literal[
    "houses",
    "road and houses",
    "road",
    "road extended",
    "road widened",
    "large building",
    "parking lot",
    "trees removed",
    "grassland removed",
    "houses demolished",
    "building demolished",
    "pond",
    "pond dried",
    "houses replaced",
    "swimming pool",
    "playground",
    "trees planted",
]


@dataclass
class PlannedEvent:
    """A planned change; what of it is visible is known once it is drawn.

    Attributes:
        kind: What happens.
        appearing: Instance numbers of the objects that appear.
        disappearing: Instance numbers of the objects that disappear.
        altered: Instance numbers of objects that change their shape.
        along: Instance number of the road beside which it happens, 0 for none.
        plots: Plots that are built upon.
        form: Layout of new roads.
        companion: Instance number of a parking lot that is built with a building, 0 for none.
    """

    kind: EventKind
    appearing: list[int] = field(default_factory=list)
    disappearing: list[int] = field(default_factory=list)
    altered: list[int] = field(default_factory=list)
    along: int = 0
    plots: list[Plot] = field(default_factory=list)
    form: str = ""
    companion: int = 0


@dataclass
class Scene:
    """A finished plan.

    Attributes:
        extent: Width and height in metres.
        base: Land class of the open ground.
        surfaces: Flat things in the order in which they are painted.
        buildings: Houses and large buildings.
        crowns: Trees; those under other things are left out when the scene is drawn.
        kinds: Object class by instance number.
        events: What is planned to change; empty when the pair is unchanged.
    """

    extent: float
    base: int
    surfaces: list[Surface]
    buildings: list[Building]
    crowns: list[Crown]
    kinds: dict[int, str]
    events: list[PlannedEvent]


def freeze(scene: Scene, date: int) -> Scene:
    """Return the scene of one date (0 or 1) as that of both dates."""
    surfaces = []
    for surface in scene.surfaces:
        shape = surface.shapes[date]
        if shape is not None:
            surface.shapes = (shape, shape)
            surfaces.append(surface)
    buildings = [building for building in scene.buildings if building.dates[date]]
    for building in buildings:
        building.dates = BOTH_DATES
    crowns = [crown for crown in scene.crowns if crown.dates[date]]
    for crown in crowns:
        crown.dates = BOTH_DATES
    return Scene(scene.extent, scene.base, surfaces, buildings, crowns, scene.kinds, [])
