"""The synthetic world: seeded pairs of overhead pictures with captions and everything that is true of them.

Names are imported when they are used: the settings belong to the command line, which must not wait for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from pipeline.datasets.world.captions import NO_CHANGE, Caption
    from pipeline.datasets.world.classes import LAND_CLASSES, OBJECT_CLASSES
    from pipeline.datasets.world.emit import generate_world
    from pipeline.datasets.world.export import export_world
    from pipeline.datasets.world.objects import read_objects, read_picture
    from pipeline.datasets.world.pair import WorldPair, make_pair
    from pipeline.datasets.world.settings import NuisanceSettings, WorldSettings
    from pipeline.datasets.world.sheet import contact_sheet

__all__ = [
    "LAND_CLASSES",
    "NO_CHANGE",
    "OBJECT_CLASSES",
    "Caption",
    "NuisanceSettings",
    "WorldPair",
    "WorldSettings",
    "contact_sheet",
    "export_world",
    "generate_world",
    "make_pair",
    "read_objects",
    "read_picture",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LAND_CLASSES": "classes",
        "NO_CHANGE": "captions",
        "OBJECT_CLASSES": "classes",
        "Caption": "captions",
        "NuisanceSettings": "settings",
        "WorldPair": "pair",
        "WorldSettings": "settings",
        "contact_sheet": "sheet",
        "export_world": "export",
        "generate_world": "emit",
        "make_pair": "pair",
        "read_objects": "objects",
        "read_picture": "objects",
    },
)
