"""How detections become semantic regions and maps.

Which Grounding DINO, what it is asked for, and which of its answers count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from pipeline.config import Section
from pipeline.errors import SettingsError
from pipeline.vision.regions.settings import HeadSettings, RoiSettings
from pipeline.vision.sam.settings import SamSettings

GroundingVariant = Literal["mini", "swin_t", "swin_b"]


class GroundingSettings(Section):
    """The open-vocabulary detector behind semantic regions, its prompts and thresholds."""

    variant: GroundingVariant = Field(
        "mini", description="mini (ships with the project, trained on the synthetic world), swin_t or swin_b"
    )
    weights: str = Field(
        "artifacts/pretrained/grounding-dino-mini.safetensors",
        description="file of its weights: .safetensors, or the published .pth; `sagecc checkpoints list` names them",
    )
    text_encoder: str = Field(
        "artifacts/pretrained/grounding-dino-mini",
        description="folder with config.json and vocab.txt of its BERT, whose weights are in `weights`; "
        "`sagecc checkpoints fetch bert-base-uncased` brings the published one's",
    )
    size: int | None = Field(
        None,
        ge=64,
        le=2048,
        description="side in pixels that the longer side of an image is resized to; null: what the variant is made "
        "for (published 800, mini 128)",
    )
    prompts: tuple[str, ...] = Field(
        (
            "building . house . villa",
            "road",
            "vegetation . tree . woods",
            "water . pond . swimming pool",
            "parking lot",
            "playground",
        ),
        description="one entry per category: its phrases, divided by full stops; the first one names it (paper: "
        "building, road, vegetation, …; its full list is not published)",
    )
    box_threshold: float = Field(
        0.35, ge=0, lt=1, description="a box is kept when its best category scores this much (published demo: 0.35)"
    )
    text_threshold: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="a kept box counts for every category that scores this much on it (published demo: 0.25)",
    )
    nms: float = Field(
        0.6, gt=0, le=1, description="of boxes of one category that overlap more than this (IoU), the best stays"
    )
    boxes: int = Field(50, ge=1, le=900, description="most regions kept per image, best first")

    @field_validator("prompts")
    @classmethod
    def _prompts_make_sense(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        parse_prompts(prompts)
        return prompts


Space = Literal["grounding", "aligned"]


class SemanticRegionSettings(Section):
    """Semantic regions: detector, masks by SAM, descriptors, similarity to the prompts and choice of the best."""

    grounding: GroundingSettings = Field(GroundingSettings(), description="the detector and its prompts")
    sam: SamSettings = Field(SamSettings(), description="the SAM that turns boxes into masks")
    roi: RoiSettings = Field(RoiSettings(), description="RoIAlign on SAM's feature map, as for the regions of masks")
    head: HeadSettings = Field(HeadSettings(), description="descriptor head g")
    space: Space = Field(
        "grounding",
        description="where regions and prompts are compared, which equation (11) leaves open; grounding: the "
        "detector's own queries and text tokens; aligned: RoI descriptors by a linear map fitted to the data set",
    )
    alignment_images: int = Field(
        200,
        ge=1,
        description="images of the training split, evenly spread, that the linear map of aligned is fitted to",
    )
    ridge: float = Field(0.1, gt=0, description="weight of that fit's penalty on large weights")
    q: int = Field(10, ge=1, le=900, description="regions selected, equation (12) (paper: not stated)")
    select: Literal["image", "category"] = Field(
        "image", description="image: the best q of an image, as in equation (12); category: the best q of each category"
    )
    map_size: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="side in pixels that semantic maps are resized to (nearest); null: the images' size, which must "
        "then be the same for all",
    )


@dataclass(frozen=True)
class Category:
    """What is looked for under one name.

    Attributes:
        name: The first phrase.
        phrases: What it may be called, in lower case.
    """

    name: str
    phrases: tuple[str, ...]


def parse_prompts(prompts: Sequence[str]) -> tuple[Category, ...]:
    """Read prompts such as "building . house . villa".

    Raises:
        SettingsError: There is none or there are too many, one is empty, or a phrase stands twice.
    """
    if not prompts:
        raise SettingsError("there are no prompts", where="prompts", fix='name at least one category: ["building"]')
    if len(prompts) > MAX_CATEGORIES:
        raise SettingsError(f"{len(prompts)} categories; a map holds {MAX_CATEGORIES}", where="prompts")
    categories = []
    seen: dict[str, str] = {}
    for number, prompt in enumerate(prompts, start=1):
        phrases = tuple(" ".join(phrase.lower().split()) for phrase in prompt.split("."))
        phrases = phrases[:-1] if len(phrases) > 1 and not phrases[-1] else phrases
        if not all(phrases):
            raise SettingsError(
                f"prompt {number} ({prompt!r}) is empty or holds an empty phrase",
                where="prompts",
                fix="write phrases divided by single full stops: building . house . villa",
            )
        for phrase in phrases:
            if "?" in phrase:
                raise SettingsError(
                    f"{phrase!r} holds a question mark, which divides phrases", where="prompts", fix="leave it out"
                )
            if phrase in seen:
                raise SettingsError(
                    f"the phrase {phrase!r} stands twice, under {seen[phrase]!r} and {phrases[0]!r}",
                    where="prompts",
                    fix="keep it in one category",
                )
            seen[phrase] = phrases[0]
        categories.append(Category(phrases[0], phrases))
    return tuple(categories)


MAX_CATEGORIES = 255
"""The semantic map has one byte per pixel, and 0 for none."""
