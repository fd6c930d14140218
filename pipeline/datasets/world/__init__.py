"""The synthetic world: seeded pairs of overhead pictures with captions and everything that is true of them."""

from pipeline.datasets.world.captions import NO_CHANGE, Caption
from pipeline.datasets.world.classes import LAND_CLASSES, OBJECT_CLASSES
from pipeline.datasets.world.contact_sheet import contact_sheet
from pipeline.datasets.world.emit import generate_world
from pipeline.datasets.world.export import export_world
from pipeline.datasets.world.objects import read_objects
from pipeline.datasets.world.pair import WorldPair, make_pair
from pipeline.datasets.world.settings import NuisanceSettings, WorldSettings

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
