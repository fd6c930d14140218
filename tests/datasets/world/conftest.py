from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.datasets.records import Pair
from pipeline.datasets.world.files import generate_world
from pipeline.datasets.world.pair import WorldPair, make_pair
from pipeline.datasets.world.settings import WorldSettings
from pipeline.execution.settings import EngineSettings

SMALL = WorldSettings(train=6, val=2, test=2, seed=3)


@pytest.fixture(scope="session")
def world_settings() -> WorldSettings:
    # A seed under which every kind of event stands alone in some pair.
    return WorldSettings(train=200, val=0, test=0, seed=14)


@pytest.fixture(scope="session")
def world_pairs(world_settings: WorldSettings) -> list[WorldPair]:
    return [make_pair(world_settings, "train", index) for index in range(world_settings.train)]


@pytest.fixture(scope="session")
def changed_pairs(world_pairs: list[WorldPair]) -> list[WorldPair]:
    return [pair for pair in world_pairs if pair.changed]


@pytest.fixture(scope="session")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Pair]]:
    folder = tmp_path_factory.mktemp("generated") / "world"
    return folder, generate_world(SMALL, folder, engine=EngineSettings(workers=1))
