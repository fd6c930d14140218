"""Which SAM, and at what size its image encoder sees an image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config import Section

SamVariant = Literal["mini", "vit_b", "vit_l", "vit_h"]
Precision = Literal["fp32", "bf16"]


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


class GeneratorSettings(Section):
    """Automatic masks of whole images: a grid of points, each of which may give up to three masks.

    The defaults are those of the mini SAM; the profiles of real data sets set the published ones.
    """

    points_per_side: int = Field(
        24, ge=1, le=256, description="points a side of the grid over the image (published: 32, at 1024 pixels)"
    )
    coarse_stride: int = Field(
        5,
        ge=1,
        le=32,
        description="every this many points of the grid, in both directions, are asked first, and of the others only "
        "those that no mask found by then covers, even with its threshold moved up by stability_offset; 1: all are "
        "asked (published)",
    )
    crop_layers: int = Field(
        0,
        ge=0,
        le=4,
        description="further layers of crops, layer i cutting the image into 2^i × 2^i of them, for objects too small "
        "for the whole image (published: 0)",
    )
    crop_overlap: float = Field(
        512 / 1500, ge=0, lt=1, description="overlap of the crops of the first layer, as a share of the shorter side"
    )
    crop_points_downscale: int = Field(
        1, ge=1, description="in crop layer i the grid has this number to the power of i fewer points a side"
    )
    predicted_iou: float = Field(
        0.4,
        ge=0,
        le=1,
        description="masks whose IoU the model predicts to be no higher are dropped; 0: none (published: 0.88)",
    )
    stability: float = Field(
        0.2, ge=0, le=1, description="masks of a lower stability score are dropped (published: 0.95)"
    )
    stability_offset: float = Field(
        1.0, ge=0, description="how far the logits' threshold is moved up and down for the stability score"
    )
    box_nms: float = Field(
        1.0, ge=0, le=1, description="of two masks whose boxes overlap by more IoU, one is dropped (published: 0.7)"
    )
    mask_nms: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="of two masks of one crop that themselves overlap by more IoU, one is dropped too; unlike boxes "
        "this tells crossing roads from one road found twice; null: boxes alone decide (published)",
    )
    crop_nms: float = Field(0.7, ge=0, le=1, description="the same between masks of different crops")
    min_region_area: int = Field(
        0,
        ge=0,
        description="holes and islands of masks smaller than this many pixels are filled and removed (published: 0); "
        "costs more than all else on small images",
    )
    min_area: int = Field(0, ge=0, description="masks of fewer pixels are dropped")
    max_area_share: float = Field(1.0, gt=0, le=1, description="masks that cover more of the image are dropped")
    keep: int = Field(50, ge=1, le=4096, description="masks kept per image, best predicted IoU first (paper: 50)")
    images_per_pass: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="images per pass of the encoder; null: 4 on a CPU, 8 on a GPU; halved when "
        "the GPU's memory runs out",
    )
    prompts_per_pass: int | None = Field(
        None,
        ge=1,
        le=16384,
        description="points per pass of the mask decoder, of several images where one has fewer; null: 32 on a CPU, "
        "1024 on a GPU; halved when the GPU's memory runs out",
    )


PUBLISHED_GENERATOR = GeneratorSettings(
    points_per_side=32, coarse_stride=1, predicted_iou=0.88, stability=0.95, box_nms=0.7, mask_nms=None
)
"""What segment_anything's SamAutomaticMaskGenerator does unless told otherwise."""
