"""What encodes the caption graph and how it is pretrained; free of torch, so that the command line may read it."""

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
        "every node by itself",
    )
    widths: tuple[int, ...] = Field(
        (64, 64), min_length=1, description="numbers per node after each layer (release: two layers, 384 and 768)"
    )
    inverse: bool = Field(
        True,
        description="messages flow from tail to head as well, for rgcn under relations of their own (paper silent)",
    )
    bases: int | None = Field(
        2, ge=1, description="rgcn: weights are sums of so many bases; null: a matrix per relation (paper silent)"
    )
    heads: int = Field(4, ge=1, description="gat: attention heads, their mean is taken")
    kernels: int = Field(4, ge=1, description="monet: Gaussian kernels")
    dropout: float = Field(0.3, ge=0, lt=1, description="of the numbers between layers (paper silent)")
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
    learning_rate: float = Field(3e-3, gt=0, description="of Adam")
    weight_decay: float = Field(3.0, ge=0, description="of Adam, decoupled")
    hidden_edges: float = Field(
        0.3, ge=0, lt=1, description="share of the triples that a pass predicts without seeing them as edges"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="of the vector that candidates are compared with")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the choice among all nodes")
    popularity: bool = Field(
        True, description="the score of a node adds how often it stands in the place asked for, by learned weights"
    )
    val_share: float = Field(0.1, ge=0, lt=0.5, description="share of the triples held out to choose the epoch")
    test_share: float = Field(0.1, ge=0, lt=0.5, description="share of the triples held out to measure")
    validate_every: int = Field(10, ge=1, description="passes between validations")
    seed: int = Field(0, ge=0, lt=2**31, description="initial weights, hidden and held-out triples")
