"""Land-cover classes of the semantic maps, and kinds of objects of the instance maps."""

from __future__ import annotations

from typing import Final

LAND_CLASSES: Final = (
    "bareland",
    "grassland",
    "tree",
    "water",
    "road",
    "building",
    "pavement",
    "playground",
)
"""Names of the values 0, 1, … of a semantic map. Pavement is parking lots and driveways."""

BARELAND, GRASSLAND, TREE, WATER, ROAD, BUILDING, PAVEMENT, PLAYGROUND = range(len(LAND_CLASSES))

OBJECT_CLASSES: Final = {
    "house": BUILDING,
    "building": BUILDING,
    "road": ROAD,
    "parking lot": PAVEMENT,
    "pond": WATER,
    "swimming pool": WATER,
    "playground": PLAYGROUND,
    "woods": TREE,
    "tree": TREE,
}
"""Kinds of objects in the instance maps and the land class that each shows. A grove is one object of kind woods."""

LAND_COLOURS: Final = (
    (222, 202, 160),
    (166, 205, 120),
    (38, 115, 60),
    (70, 130, 200),
    (120, 120, 120),
    (200, 70, 60),
    (190, 190, 200),
    (235, 145, 60),
)
"""Colours in which pictures of a semantic map show the land classes."""
