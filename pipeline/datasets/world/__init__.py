"""The synthetic world: seeded pairs of overhead pictures with captions and everything that is true of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pipeline.datasets.world.settings import NuisanceSettings, WorldSettings

if TYPE_CHECKING:
    from pipeline.datasets.world.captions import NO_CHANGE, Caption
    from pipeline.datasets.world.classes import LAND_CLASSES, OBJECT_CLASSES
    from pipeline.datasets.world.contact_sheet import contact_sheet
    from pipeline.datasets.world.emit import generate_world
    from pipeline.datasets.world.export import export_world
    from pipeline.datasets.world.objects import read_objects
    from pipeline.datasets.world.pair import WorldPair, make_pair

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

# The settings are read when the command line starts; numpy, scipy and shapely wait until something is drawn.
_HOMES = {
    "LAND_CLASSES": "classes",
    "NO_CHANGE": "captions",
    "OBJECT_CLASSES": "classes",
    "Caption": "captions",
    "WorldPair": "pair",
    "contact_sheet": "contact_sheet",
    "export_world": "export",
    "generate_world": "emit",
    "make_pair": "pair",
    "read_objects": "objects",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # instead of the module of the same name that the import has put here
    return value
