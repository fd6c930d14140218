"""Settings of the scene backbone and of the image normalisation before it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.config import Section
from pipeline.path_settings import PathText
from pipeline.vision.scenes.registry import BACKBONES


class BackboneSettings(Section):
    """The scene backbone of equation (1) and the image normalisation that goes with it."""

    backbone: Annotated[str, AfterValidator(BACKBONES.validate)] = Field("mini", description=BACKBONES.describe())
    weights: PathText = Field(
        "artifacts/pretrained/scenes-mini.safetensors",
        description="file of the backbone's weights: .safetensors, or a .pth state dict; "
        "`sagecc checkpoints list` names the published ones and `sagecc checkpoints fetch NAME` brings them",
    )
    size: int | None = Field(
        None,
        ge=32,
        le=4096,
        description="side in pixels that images are resized to (bilinear, antialiased); null: as they are",
    )
    mean: tuple[float, float, float] = Field(
        (123.675, 116.28, 103.53), description="per channel, 0–255, subtracted (default: ImageNet's)"
    )
    std: tuple[float, float, float] = Field(
        (58.395, 57.12, 57.375), description="per channel, 0–255, divided by (default: ImageNet's)"
    )
