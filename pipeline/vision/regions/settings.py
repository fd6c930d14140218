"""Settings of region features: RoIAlign, the descriptor head, what is stored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config import Section
from pipeline.path_settings import PathText

HeadKind = Literal["mean", "conv"]
Store = Literal["vectors", "grids"]

GRID = 7
"""Bins a side after the adaptive average pooling of equation (8)."""


class RoiSettings(Section):
    """RoIAlign on SAM's feature map (equation 7) and the pooling to 7×7 (equation 8)."""

    output_size: int = Field(
        14,
        ge=7,
        le=64,
        description="bins a side that RoIAlign gives, before the adaptive average pooling to 7×7 of equation (8); "
        "the paper does not say (14 is what Mask R-CNN takes for masks)",
    )
    sampling_ratio: int = Field(
        0,
        ge=0,
        le=16,
        description="samples a side of every bin; 0: as many as the bin is cells wide, rounded up, so that large "
        "regions are averaged and not sampled",
    )
    mask_pooling: bool = Field(
        False,
        description="weight every bin by the share of it that the mask covers, so that surroundings within the box do "
        "not count; false as in the paper: the whole box",
    )


class HeadSettings(Section):
    """The descriptor head g of equation (8), by the paper a lightweight convolutional one."""

    kind: HeadKind = Field(
        "mean",
        description="mean: average over the 7×7 grid, descriptors as wide as the feature map; conv (paper, which does "
        "not say how it is trained): a convolution, an average and a linear layer, random by `seed` or from `weights`",
    )
    width: int = Field(256, ge=8, le=2048, description="d, the width of conv's descriptors; mean ignores it")
    weights: PathText | None = Field(
        None,
        description="safetensors file of conv's trained weights: its own, or model.safetensors of a captioner that "
        "trained one (train.captioner.inputs.descriptor_width); null: orthogonal random ones",
    )
    seed: int = Field(0, ge=0, description="seed of the random weights")
    normalise: bool = Field(False, description="scale every descriptor to unit length")


class RegionSettings(Section):
    """What is computed for every region, and what is stored."""

    roi: RoiSettings = Field(RoiSettings(), description="RoIAlign and pooling")
    head: HeadSettings = Field(HeadSettings(), description="descriptor head g")
    store: Store = Field(
        "vectors",
        description="vectors: descriptors only; grids: also the 7×7 grids they are made of, so that the "
        "captioner can train a head of its own (train.captioner.inputs.descriptor_width), at some 45 times the room",
    )
