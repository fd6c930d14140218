from __future__ import annotations

import numpy as np

from pipeline.datasets.world.classes import LAND_CLASSES
from pipeline.vision.grounding.categories import parse_prompts
from pipeline.vision.grounding.land import CLASSES, common_land, common_map
from pipeline.vision.grounding.settings import GroundingSettings


def test_open_ground_is_one_class_and_the_rest_keep_their_names() -> None:
    common = common_land(np.arange(len(LAND_CLASSES)))
    named = dict(zip(LAND_CLASSES, (CLASSES[value] for value in common), strict=True))
    assert named.pop("bareland") == named.pop("grassland") == "open ground"
    assert all(land == name for name, land in named.items())


def test_default_prompts_are_the_worlds_land() -> None:
    categories = parse_prompts(GroundingSettings().prompts)
    common = common_map(np.arange(len(categories) + 1), categories)
    assert [CLASSES[value] for value in common] == [
        "open ground", "building", "road", "tree", "water", "pavement", "playground",
    ]  # fmt: skip


def test_a_category_that_names_no_object_is_open_ground() -> None:
    assert common_map(np.array([[1, 2]]), parse_prompts(["bareland", "quay"])).tolist() == [[0, 0]]
