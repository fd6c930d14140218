"""Which SAM, and at what size its image encoder sees an image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config import Section

SamVariant = Literal["mini", "vit_b", "vit_l", "vit_h"]


class SamSettings(Section):
    """The Segment Anything model behind masks, region features and semantic regions."""

    variant: SamVariant = Field(
        "mini", description="mini (ships with the project, trained on the synthetic world), vit_b, vit_l or vit_h"
    )
    weights: str = Field(
        "artifacts/pretrained/sam-mini.safetensors",
        description="file of its weights: .safetensors, or Meta's .pth; `sagecc checkpoints list` names the "
        "published ones",
    )
    encoder_size: int | None = Field(
        None,
        ge=64,
        le=2048,
        description="side in pixels that the longer side of an image is resized to for the encoder; null: the size the "
        "variant was trained at (1024, mini 128); other sizes interpolate its position embedding",
    )
