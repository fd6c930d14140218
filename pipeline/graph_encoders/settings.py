"""Settings of the graph encoder and its pretraining; free of torch, so that the command line may read it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from pipeline.config import Section

EncoderKind = Literal["rgcn", "gcn", "gat", "sage", "monet", "none"]
Readout = Literal["mean", "attention"]


class GraphEncoderSettings(Section):
    """The graph encoder, equations (15) and (16)."""

    kind: EncoderKind = Field(
        "rgcn",
        description="rgcn (paper), gcn, gat, sage, monet (Table 7; these four do not see the relations), or none: "
        "every node alone",
    )
    widths: tuple[int, ...] = Field(
        (64, 64), min_length=1, description="numbers per node after each layer (release: two layers, 384 and 768)"
    )
    inverse: bool = Field(
        True,
        description="messages also flow from tail to head, for rgcn under separate relations (paper silent)",
    )
    bases: int | None = Field(
        2,
        ge=1,
        description="rgcn: number of bases that the matrices of the relations are sums of (not in the paper: far fewer "
        "weights to learn from one small graph); null: a matrix W_r per relation, equation (15) to the letter",
    )
    heads: int = Field(4, ge=1, description="gat: attention heads, averaged")
    kernels: int = Field(4, ge=1, description="monet: Gaussian kernels")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout between layers (paper silent)")
    readout: Readout = Field("mean", description="equation (16): mean over the nodes, or attention (paper: either)")

    @field_validator("widths")
    @classmethod
    def _positive(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= width <= 8192 for width in widths):
            raise ValueError("a width lies between 1 and 8192")
        return widths


class PretrainingSettings(Section):
    """Pretraining of the graph encoder by link prediction with DistMult (the paper names no method)."""

    epochs: int = Field(
        100, ge=0, description="passes over the graph's triples; 0: the encoder keeps its random weights"
    )
    learning_rate: float = Field(3e-3, gt=0, description="learning rate of AdamW")
    weight_decay: float = Field(3.0, ge=0, description="weight decay of AdamW")
    hidden_edges: float = Field(
        0.3, ge=0, lt=1, description="share of the triples that a pass predicts without seeing them as edges"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout of the query vector")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing over all nodes")
    popularity: bool = Field(
        True, description="add to a node's score how often it is the head or tail of the relation, with learned weights"
    )
    val_share: float = Field(0.1, ge=0, lt=0.5, description="share of the triples held out to choose the epoch")
    test_share: float = Field(0.1, ge=0, lt=0.5, description="share of the triples held out to measure")
    validate_every: int = Field(10, ge=1, description="passes between validations")
    seed: int = Field(0, ge=0, lt=2**31, description="initial weights, hidden and held-out triples")
