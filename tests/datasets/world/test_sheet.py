from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.records import Pair
from pipeline.datasets.world.settings import WorldSettings
from pipeline.datasets.world.sheet import _choose, contact_sheet
from pipeline.errors import DataError


def test_from_a_folder_and_from_settings(world_folder: tuple[Path, list[Pair]], tmp_path: Path) -> None:
    first = contact_sheet(world_folder[0], 4, tmp_path / "folder.png")
    second = contact_sheet(WorldSettings(train=6, val=2, test=2, seed=3), 4, tmp_path / "settings.png")
    with Image.open(first) as one, Image.open(second) as two:
        assert one.size[0] > one.size[1] > 300
        # The same world, so the same picture, whether it was written or not.
        assert np.array_equal(np.asarray(one), np.asarray(two))


def test_kinds_are_spread_and_one_place_is_left_for_an_unchanged_pair() -> None:
    kinds = [(0, {"houses"}), (1, {"houses"}), (2, set()), (3, {"pond"}), (4, {"road"})]
    assert _choose([(index, frozenset(kind)) for index, kind in kinds], 4) == [0, 4, 3]


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no val pairs"):
        contact_sheet(WorldSettings(train=1, val=0, test=0), 2, tmp_path / "sheet.png", split="val")
    assert not (tmp_path / "sheet.png").exists()
