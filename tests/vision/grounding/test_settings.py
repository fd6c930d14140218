from __future__ import annotations

import pytest

from pipeline.config import parse_section
from pipeline.errors import SettingsError
from pipeline.vision.grounding.settings import MAX_CATEGORIES, Category, GroundingSettings, parse_prompts


def test_phrases_are_divided_by_full_stops() -> None:
    assert parse_prompts(["Building . house .  big  villa", "road ."]) == (
        Category("building", ("building", "house", "big villa")),
        Category("road", ("road",)),
    )


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "no prompts"),
        ([""], "empty"),
        ([" . "], "empty"),
        (["building . . house"], "empty phrase"),
        (["building", "road . Building"], "stands twice"),
        (["house . house"], "stands twice"),
        (["what is it?"], "question mark"),
        ([f"thing{number}" for number in range(MAX_CATEGORIES + 1)], "a map holds 255"),
    ],
)
def test_bad_prompts_are_refused(prompts: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_prompts(prompts)
    with pytest.raises(SettingsError, match=message):
        parse_section({"prompts": prompts}, "grounding", GroundingSettings)


def test_the_default_prompts_are_good() -> None:
    assert [category.name for category in parse_prompts(GroundingSettings().prompts)] == [
        "building",
        "road",
        "vegetation",
        "water",
        "parking lot",
        "playground",
    ]
