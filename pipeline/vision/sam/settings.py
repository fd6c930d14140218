"""Settings of SAM and of its automatic masks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config import Section
from pipeline.path_settings import PathText

SamVariant = Literal["mini", "vit_b", "vit_l", "vit_h"]
Precision = Literal["fp32", "bf16"]


class SamSettings(Section):
    """The Segment Anything model behind masks, region features and semantic regions."""

    variant: SamVariant = Field(
        "mini", description="mini (ships with the project, trained on the synthetic world), vit_b, vit_l or vit_h"
    )
    weights: PathText = Field(
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

    Names are those of segment_anything's SamAutomaticMaskGenerator where it has the setting. The defaults are those of
    the mini SAM; the profiles of real data sets set the published ones.
    """

    points_per_side: int = Field(
        24, ge=1, le=256, description="points a side of the grid over the image (published: 32, at 1024 pixels)"
    )
    coarse_stride: int = Field(
        5,
        ge=1,
        le=32,
        description="SAM is prompted with every this many points of the grid, in both directions, first, and then only "
        "with points that none of their masks covers, even with its threshold moved up by stability_score_offset; "
        "1: with all points (published)",
    )
    crop_n_layers: int = Field(
        0,
        ge=0,
        le=4,
        description="further layers of crops, layer i cutting the image into 2^i × 2^i of them, for objects too small "
        "for the whole image (published: 0)",
    )
    crop_overlap_ratio: float = Field(
        512 / 1500, ge=0, lt=1, description="overlap of the crops of layer 1, as a share of the shorter side"
    )
    crop_n_points_downscale_factor: int = Field(
        1, ge=1, description="in crop layer i the grid has this number to the power of i fewer points a side"
    )
    pred_iou_thresh: float = Field(
        0.4,
        ge=0,
        le=1,
        description="masks whose IoU the model predicts to be no higher are dropped; 0: none (published: 0.88)",
    )
    stability_score_thresh: float = Field(
        0.2, ge=0, le=1, description="masks of a lower stability score are dropped (published: 0.95)"
    )
    stability_score_offset: float = Field(
        1.0, ge=0, description="how far the logits' threshold is moved up and down for the stability score"
    )
    box_nms_thresh: float = Field(
        1.0, ge=0, le=1, description="of two masks whose boxes have a higher IoU, one is dropped (published: 0.7)"
    )
    mask_nms_thresh: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="of two masks of one crop that themselves have a higher IoU, one is dropped too; unlike boxes this "
        "distinguishes crossing roads from one road found twice; null: boxes alone decide (published)",
    )
    crop_nms_thresh: float = Field(0.7, ge=0, le=1, description="box_nms_thresh between masks of different crops")
    min_mask_region_area: int = Field(
        0,
        ge=0,
        description="holes and islands of masks smaller than this many pixels are filled and removed (published: 0); "
        "costs more than all else on small images",
    )
    min_area: int = Field(0, ge=0, description="masks of fewer pixels are dropped")
    max_area_share: float = Field(1.0, gt=0, le=1, description="masks that cover more of the image are dropped")
    max_masks: int = Field(50, ge=1, le=4096, description="most masks per image, best predicted IoU first (paper: 50)")
    images_per_batch: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="images per pass of the encoder; null: 4 on a CPU, 8 on a GPU; halved when "
        "the GPU's memory runs out",
    )
    points_per_batch: int | None = Field(
        None,
        ge=1,
        le=16384,
        description="points per pass of the mask decoder, of several images where one has fewer; null: 32 on a CPU, "
        "1024 on a GPU; halved when the GPU's memory runs out",
    )


PUBLISHED_GENERATOR = GeneratorSettings(
    points_per_side=32,
    coarse_stride=1,
    pred_iou_thresh=0.88,
    stability_score_thresh=0.95,
    box_nms_thresh=0.7,
    mask_nms_thresh=None,
)
"""segment_anything's defaults of SamAutomaticMaskGenerator."""
