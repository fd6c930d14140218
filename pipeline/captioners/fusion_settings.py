"""How regions and the caption graph reach the decoder; free of torch, so that the command line may read it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from pipeline.config import Section
from pipeline.graphs.settings import GraphEncoderSettings

FusionKind = Literal["none", "paper", "release"]


class EvidenceSettings(Section):
    """What a captioner takes beside the scenes, and how it reads that; for both fusions."""

    motion: bool = Field(True, description="take regions without a counterpart at the other date (MCL of Table 4)")
    semantics: bool = Field(True, description="take regions that text prompts name (SCA of Table 4)")
    graph: bool = Field(True, description="take the graph of the training captions (CGR of Table 4)")
    masks_kept: int | None = Field(
        None,
        ge=1,
        description="of each image use only so many masks, those of the largest predicted IoU; null: all that SAM "
        "kept. Confidences are those that `matches` computed among all (Table 5)",
    )
    match_threshold: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="τ of equation (10), applied to the stored confidences; null: what `matches` decided (Table 6)",
    )
    descriptor_width: int | None = Field(
        None,
        ge=8,
        le=2048,
        description="null: descriptors of motion regions are those that `regions` computed; a number: the head g of "
        "equation (8) is trained with the captioner, to that width, on the 7×7 grids that regions.store: grids keeps "
        "(paper silent on whether g is trained, and how)",
    )
    top_q: int | None = Field(
        None,
        ge=1,
        description="of a pair's semantic regions take the q most similar to a prompt, equation (12), both dates "
        "together; null: all that are given, which are already those that the stage `semantics` selected",
    )
    date_embedding: bool = Field(
        True, description="a learned vector per date is added to every region (paper silent; release: false)"
    )
    drop: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the regions that is left out of each training step, drawn anew for every pair: what a "
        "detector misses, the captioner then learns to do without (paper and release: 0)",
    )
    graph_encoder: GraphEncoderSettings = Field(
        default_factory=GraphEncoderSettings, description="graph encoder, equation (15), and its readout, (16)"
    )
    pretrained_graph: bool = Field(
        True,
        description="the graph encoder starts with the weights that the stage `graph` pretrained (paper); false: with "
        "random ones (release)",
    )
    frozen_graph: bool = Field(
        False,
        description="the graph encoder keeps the weights it is given, without dropout (paper: pretrained, not whether "
        "trained on; release: false)",
    )


class PaperFusionSettings(Section):
    """The vector r of equation (17), added to every word of the decoder."""

    region_width: int | None = Field(
        128,
        ge=1,
        description="descriptors and embeddings are projected to this width before they are pooled; null: not "
        "projected (paper silent)",
    )
    region_feedforward: int = Field(
        0,
        ge=0,
        description="residual feed-forward layer on every region before pooling, as a multiple of its width; 0: none, "
        "as in the paper",
    )
    centroid_width: int = Field(
        64, ge=4, description="channels of the positional encoding of a motion region's centroid (paper silent)"
    )
    centroid_waves: int = Field(
        64,
        ge=1,
        description="half periods of the encoding's shortest wave across the image; the longest has one (paper silent)",
    )
    dates_apart: bool = Field(
        False,
        description="pool the regions of each date by themselves and join the two vectors; false: both dates' sets are "
        "one set, as the paper writes it, whose mean does not tell which regions came and which went",
    )
    pooling: Literal["mean", "attention"] = Field(
        "mean",
        description="how a set of regions becomes one vector: mean, or weights by a learned query, which start as the "
        "mean (paper silent)",
    )
    empty: Literal["learned", "zero"] = Field(
        "learned", description="what a set without regions is pooled to: a learned vector or zeros (paper silent)"
    )
    condition: Literal["split", "projected"] = Field(
        "split",
        description="how r comes to the decoder's width: W_d, W_s and W_g share it among them, so that (17) stands to "
        "the letter, or each has all of it and a projection follows the norm (paper silent)",
    )

    @field_validator("centroid_width")
    @classmethod
    def _quarters(cls, width: int) -> int:
        if width % 4:
            raise ValueError("a multiple of 4: sine and cosine of x and of y")
        return width


class ReleaseFusionSettings(Section):
    """Cross-attention between image tokens and those of regions and graph nodes, as in the authors' release."""

    heads: int = Field(16, ge=1, description="attention heads; release 16")
    feedforward: int = Field(4, ge=1, description="feed-forward width as a multiple of that of the tokens; release 4")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="dropout of both residual branches; release 0.1")
