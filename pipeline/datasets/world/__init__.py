"""The synthetic world: seeded pairs of overhead pictures with captions and everything that is true of them.

Names are imported when they are used: the settings belong to the command line, which must not wait for the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.datasets.world.captions import NO_CHANGE, Caption
    from pipeline.datasets.world.classes import LAND_CLASSES, OBJECT_CLASSES
    from pipeline.datasets.world.emit import generate_world
    from pipeline.datasets.world.export import export_world
    from pipeline.datasets.world.objects import read_objects
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
]

_HOMES = {
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
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
