"""Settings of the matchers and of the assignment."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.config import Section
from pipeline.path_settings import PathText

MatchMethod = Literal["superglue", "lightglue", "nearest"]
UnmatchedRule = Literal["paper", "release"]


class SuperGlueSettings(Section):
    """The layout of SuperGlue (Sarlin et al. 2020); the defaults are those of the mini one that ships."""

    width: int = Field(64, ge=8, le=1024, description="channels of the tokens (published: 256)")
    layers: int = Field(4, ge=1, le=18, description="pairs of a self- and a cross-attention layer (published: 9)")
    heads: int = Field(4, ge=1, le=16, description="attention heads (published: 4)")
    keypoint_encoder: tuple[int, ...] = Field(
        (32, 64), min_length=1, description="hidden units of the encoder of positions (published: 32, 64, 128, 256)"
    )
    box_features: bool = Field(
        True,
        description="encode the width and height of a region's box with its position (published: false, points only)",
    )
    project_descriptors: bool = Field(
        True,
        description="project descriptors to the tokens' width by a learned layer; without it they must have that width "
        "(published: false)",
    )
    sinkhorn_iterations: int = Field(
        30, ge=1, le=1000, description="iterations of the optimal transport (published: 100)"
    )

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


PUBLISHED = SuperGlueSettings(
    width=256,
    layers=9,
    heads=4,
    keypoint_encoder=(32, 64, 128, 256),
    box_features=False,
    project_descriptors=False,
    sinkhorn_iterations=100,
)
"""Layout of superglue_indoor.pth and superglue_outdoor.pth."""


class LightGlueSettings(Section):
    """The layout of LightGlue (Lindenberger et al. 2023, by kornia); trained by `sagecc pretrain matcher`."""

    width: int = Field(64, ge=8, le=1024, description="channels of the tokens (published: 256)")
    layers: int = Field(4, ge=1, le=18, description="layers of self- and cross-attention (published: 9)")
    heads: int = Field(4, ge=1, le=16, description="attention heads (published: 4)")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        # Rotary positions turn pairs of channels within a head.
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is no multiple of twice the heads, {2 * self.heads}")
        return self


class MatcherLayout(Section):
    """Method and layout of a matcher."""

    method: MatchMethod = Field(
        "superglue",
        description="superglue (paper), lightglue, or nearest: mutual nearest neighbours by cosine similarity, the "
        "ablation without SuperGlue",
    )
    superglue: SuperGlueSettings = Field(SuperGlueSettings(), description="layout for method: superglue")
    lightglue: LightGlueSettings = Field(LightGlueSettings(), description="layout for method: lightglue")


class MatcherSettings(MatcherLayout):
    """The matcher of equation (9)."""

    weights: PathText = Field(
        "artifacts/pretrained/matcher-mini.safetensors",
        description="file of the matcher's weights, from `sagecc pretrain matcher`; nearest reads none, but "
        "`dvc repro` wants a file to be there: the one that ships will do. "
        "superglue_outdoor.pth or superglue_indoor.pth of Magic Leap load with the published layout; their licence "
        "allows non-commercial research only, so they are neither shipped nor fetched",
    )


class AssignmentSettings(Section):
    """How confidences become matches and unmatched regions (equation 10)."""

    threshold: float = Field(
        0.2, ge=0, lt=1, description="τ: confidences must exceed it (paper: 0.2; its Table 6 also tries 0.1 and 0.3)"
    )
    unmatched: UnmatchedRule = Field(
        "paper",
        description="paper: a region none of whose confidences exceeds τ (equation 10); release: a region in no mutual "
        "match, as SuperGlue's own release decides (the authors of SAGE-CC did not release this part)",
    )
