"""The synthetic worlds that mini models are trained on; models with equal world settings share one."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import settings_hash
from pipeline.datasets.world import generate_world
from pipeline.datasets.world.emit import CLASSES_FILE
from pipeline.datasets.world.settings import WorldSettings
from pipeline.execution.progress import track
from pipeline.execution.settings import EngineSettings


def training_world(settings: WorldSettings, work: Path, *, engine: EngineSettings, title: str) -> Path:
    """Generate a world under `work`, unless it is there already.

    Returns:
        Its folder: images, oracles and objects as `pipeline.datasets.world.generate_world` writes them.
    """
    world = work / "worlds" / settings_hash(settings)
    # The class list is written last: with it the world is whole.
    if not (world / CLASSES_FILE).is_file():
        with track(f"{title}: the world", settings.train + settings.val + settings.test) as bar:
            generate_world(settings, world, engine=engine, progress=lambda _done, _all: bar.advance())
    return world
