"""Which backbone turns an image into scene features, and how the image is brought to it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config import Section

BackboneName = Literal["mini", "resnet18", "resnet50", "resnet101"]


class BackboneSettings(Section):
    """The scene backbone of equation (1) and the image normalisation that goes with it."""

    backbone: BackboneName = Field(
        "mini",
        description="mini (ships with the project, trained on the synthetic world), resnet18, resnet50 or resnet101 "
        "(paper and release: resnet101)",
    )
    weights: str = Field(
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
