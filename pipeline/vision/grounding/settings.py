"""Settings of the open-vocabulary detector and of the semantic regions and maps made with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import Field, field_validator

from pipeline.config import Section
from pipeline.errors import SettingsError
from pipeline.path_settings import PathText
from pipeline.vision.regions.settings import HeadSettings, RoiSettings
from pipeline.vision.sam.settings import SamSettings

MAX_CATEGORIES: Final = 255
"""The semantic map has one byte per pixel, and 0 for no category."""

GroundingVariant = Literal["mini", "swin_t", "swin_b"]
Space = Literal["grounding", "aligned"]


@dataclass(frozen=True)
class Category:
    """One category of the prompts.

    Attributes:
        name: Its first phrase.
        phrases: All its phrases, in lower case.
    """

    name: str
    phrases: tuple[str, ...]


def parse_prompts(prompts: Sequence[str]) -> tuple[Category, ...]:
    """Parse prompts such as "building . house . villa", one per category.

    Raises:
        SettingsError: There is none or there are too many, one is empty, or a phrase stands twice.
    """
    if not prompts:
        raise SettingsError("there are no prompts", where="prompts", fix='name at least one category: ["building"]')
    if len(prompts) > MAX_CATEGORIES:
        raise SettingsError(f"{len(prompts)} categories; a map holds {MAX_CATEGORIES}", where="prompts")
    categories = []
    category_of: dict[str, str] = {}
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
            if phrase in category_of:
                raise SettingsError(
                    f"the phrase {phrase!r} stands twice, under {category_of[phrase]!r} and {phrases[0]!r}",
                    where="prompts",
                    fix="keep it in one category",
                )
            category_of[phrase] = phrases[0]
        categories.append(Category(phrases[0], phrases))
    return tuple(categories)


class GroundingDinoSettings(Section):
    """Grounding DINO, the open-vocabulary detector."""

    variant: GroundingVariant = Field(
        "mini", description="mini (ships with the project, trained on the synthetic world), swin_t or swin_b"
    )
    weights: PathText = Field(
        "artifacts/pretrained/grounding-dino-mini.safetensors",
        description="file of its weights: .safetensors, or the published .pth; `sagecc checkpoints list` names them",
    )
    text_encoder: PathText = Field(
        "artifacts/pretrained/grounding-dino-mini",
        description="folder with config.json and vocab.txt of its BERT, whose weights are in `weights`; "
        "`sagecc checkpoints fetch bert-base-uncased` brings the published one's",
    )
    size: int | None = Field(
        None,
        ge=64,
        le=2048,
        description="side in pixels that the longer side of an image is resized to; null: the variant's own "
        "(published 800, mini 128)",
    )


class GroundingSettings(GroundingDinoSettings):
    """Grounding DINO, its prompts and its thresholds."""

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
        0.35, ge=0, lt=1, description="least score of a box's best category (published demo: 0.35)"
    )
    text_threshold: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="a box above box_threshold counts for every category that scores at least this on it (published "
        "demo: 0.25)",
    )
    nms_threshold: float = Field(
        0.6,
        gt=0,
        le=1,
        description="IoU of two boxes of one category above which non-maximum suppression drops the one that scores "
        "lower",
    )
    max_boxes: int = Field(50, ge=1, le=900, description="most boxes per image; the best-scoring ones are kept")

    @field_validator("prompts")
    @classmethod
    def _prompts_can_be_parsed(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        parse_prompts(prompts)
        return prompts


class SemanticRegionSettings(Section):
    """Semantic regions: boxes, their masks and descriptors, similarity to the prompts and selection."""

    grounding: GroundingSettings = Field(GroundingSettings(), description="the detector and its prompts")
    sam: SamSettings = Field(SamSettings(), description="the SAM that turns boxes into masks")
    roi: RoiSettings = Field(RoiSettings(), description="RoIAlign on SAM's feature map, as for the regions of masks")
    head: HeadSettings = Field(HeadSettings(), description="descriptor head g")
    space: Space = Field(
        "grounding",
        description="space in which regions and prompts are compared, which equation (11) leaves open; grounding: the "
        "detector's own queries and text tokens; aligned: RoI descriptors by a linear map fitted to the data set",
    )
    alignment_images: int = Field(
        200,
        ge=1,
        description="aligned: images of the training split, evenly spread, that the linear map is fitted to",
    )
    ridge: float = Field(0.1, gt=0, description="aligned: weight of the fit's L2 penalty")
    top_q: int = Field(
        10, ge=1, le=900, description="q, the number of regions selected, equation (12) (paper: not stated)"
    )
    select: Literal["image", "category"] = Field(
        "image",
        description="image: the best top_q of an image, as in equation (12); category: the best top_q of each category",
    )
    map_size: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="side in pixels that semantic maps are resized to (nearest); null: the images' size, which must "
        "then be the same for all",
    )
