"""Settings of the synthetic world, its land-cover classes and its kinds of objects."""

from __future__ import annotations

from typing import Final, Self

from pydantic import Field, model_validator

from pipeline.config import Section

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


class NuisanceSettings(Section):
    """Strength of the differences between two dates that are no change; 0 switches one off, 1 is realistic."""

    season: float = Field(default=1.0, ge=0, le=2, description="difference in the colour of grass and trees")
    light: float = Field(default=1.0, ge=0, le=2, description="difference in brightness, contrast, haze and colour")
    sun: float = Field(default=1.0, ge=0, le=2, description="difference in the direction and length of shadows")
    shift_pixels: float = Field(
        default=1.5, ge=0, le=3, description="largest misregistration between the two dates, in pixels of the image"
    )
    noise: float = Field(default=1.0, ge=0, le=2, description="sensor noise and blur")
    cars: float = Field(default=1.0, ge=0, le=2, description="number of cars; they move between the dates")


class WorldSettings(Section):
    """The synthetic world: how many pairs, how large, how varied."""

    train: int = Field(800, ge=0, le=999_999, description="pairs in the training split")
    val: int = Field(80, ge=0, le=999_999, description="pairs in the validation split")
    test: int = Field(200, ge=0, le=999_999, description="pairs in the test split")
    size: int = Field(128, ge=64, le=512, description="width and height of an image in pixels")
    ground_sample_distance: float = Field(1.0, ge=0.25, le=2.0, description="metres on the ground per pixel")
    seed: int = Field(0, ge=0, description="same seed, same bytes")
    unchanged_share: float = Field(0.5, ge=0, le=1, description="share of pairs in which nothing changes")
    second_event_share: float = Field(0.25, ge=0, le=1, description="share of changed pairs with a second event")
    nuisances: NuisanceSettings = Field(
        default=NuisanceSettings(), description="what differs between the dates without being a change"
    )

    @property
    def extent(self) -> float:
        """Width and height of the scene in metres."""
        return self.size * self.ground_sample_distance

    @model_validator(mode="after")
    def _extent_holds_a_scene(self) -> Self:
        if not 96 <= self.extent <= 256:
            raise ValueError(f"size × ground_sample_distance must be between 96 and 256 metres (is {self.extent:g})")
        return self
