"""Fusion as the paper describes it: one vector r for all that is known beside the scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.captioners.attention import initialise
from pipeline.captioners.evidence import Evidence, EvidenceWidths
from pipeline.captioners.fusion_settings import EvidenceSettings, PaperFusionSettings
from pipeline.captioners.graph_branch import GraphBranch
from pipeline.captioners.memory import Memory
from pipeline.captioners.pooling import SetPooling
from pipeline.captioners.region_tokens import RegionTokens, keep_best
from pipeline.captioners.regions import Regions


class PaperFusion(nn.Module):
    """F_disc, F_sem and F_kg → r of equation (17), the decoder's condition.

    F_disc is pooled from the motion regions of both dates, each a descriptor beside its centroid's encoding; F_sem
    from the semantic regions; F_kg is the readout of the graph. Where the settings leave one out, r is made of the
    others.

    Args:
        evidence: What is taken.
        settings: How it is pooled and joined.
        widths: Widths of what is taken.
        width: Width D of the decoder.
    """

    def __init__(
        self, evidence: EvidenceSettings, settings: PaperFusionSettings, widths: EvidenceWidths, width: int
    ) -> None:
        super().__init__()
        self.top_q = evidence.top_q
        self.motion: RegionVector | None = None
        self.semantics: RegionVector | None = None
        self.graph: GraphBranch | None = None
        dates, inputs = evidence.date_embedding, []
        if evidence.motion and widths.motion is not None:
            self.motion = RegionVector(settings, widths.motion, dates=dates, centroids=True)
            inputs.append(self.motion.width)
        if evidence.semantics and widths.semantics is not None:
            self.semantics = RegionVector(settings, widths.semantics, dates=dates, centroids=False)
            inputs.append(self.semantics.width)
        if evidence.graph and widths.nodes is not None and widths.relations is not None:
            self.graph = GraphBranch(evidence, widths.nodes, widths.relations, readout=True)
            inputs.append(self.graph.width)
        self.condition = Condition(inputs, width, settings.condition)

    def forward(self, memory: Memory, evidence: Evidence) -> Memory:
        """Return `memory` with r, (B, D), as its condition, and with what counts how much in it.

        Args:
            memory: Scenes of B pairs.
            evidence: Of the same pairs, checked by `checked_evidence`.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}
        if self.motion is not None and evidence.motion is not None:
            found["motion"] = self.motion(evidence.motion)
        if self.semantics is not None and evidence.semantics is not None:
            found["semantics"] = self.semantics(keep_best(evidence.semantics, self.top_q))
        if self.graph is not None and evidence.graph is not None:
            read, weights = self.graph(evidence.graph)
            found["nodes"] = read.expand(len(memory), -1), weights.expand(len(memory), -1)
        condition = self.condition([vector for vector, _ in found.values()])
        return replace(memory, condition=condition, shares={name: weights for name, (_, weights) in found.items()})


class RegionVector(nn.Module):
    """A pair's regions as one vector: F_disc or F_sem.

    Args:
        settings: Projection, encoding and pooling.
        features: Width of descriptors or embeddings.
        dates: Whether a learned vector tells a region's date.
        centroids: Whether regions carry the encoding of their centroids.
    """

    def __init__(self, settings: PaperFusionSettings, features: int, *, dates: bool, centroids: bool) -> None:
        super().__init__()
        self.tokens = RegionTokens(
            features,
            settings.region_width,
            dates=dates,
            centroid_width=settings.centroid_width if centroids else 0,
            centroid_waves=settings.centroid_waves,
            feedforward=settings.region_feedforward,
        )
        self.pooling = SetPooling(self.tokens.width, settings.pooling, settings.empty)
        self.dates_apart = settings.dates_apart
        self.width = self.tokens.width * (2 if self.dates_apart else 1)

    def forward(self, regions: Regions) -> tuple[Tensor, Tensor]:
        """Pool the regions of B pairs to (B, width) float32, and tell their weights (B, N); see `SetPooling`."""
        tokens: Tensor = self.tokens(regions)
        if not self.dates_apart or regions.dates is None:
            pooled: tuple[Tensor, Tensor] = self.pooling(tokens, regions.mask)
            return pooled
        apart = [self.pooling(tokens, regions.mask & (regions.dates == date)) for date in (0, 1)]
        return torch.cat([vector for vector, _ in apart], dim=-1), apart[0][1] + apart[1][1]


class Condition(nn.Module):
    """r = LN([W_d F_disc; W_s F_sem; W_g F_kg]), equation (17).

    Args:
        inputs: Widths of the vectors that there are, one at least.
        width: Width D of r.
        form: "split": W_d, W_s and W_g share the D channels as evenly as they go; "projected": each has D, and a
            linear layer behind the norm brings them back to D.
    """

    def __init__(self, inputs: Sequence[int], width: int, form: Literal["split", "projected"]) -> None:
        super().__init__()
        parts = len(inputs)
        shares = [width] * parts if form == "projected" else [(width + part) // parts for part in range(parts)]
        self.parts = nn.ModuleList(
            nn.Linear(size, share, bias=False) for size, share in zip(inputs, shares, strict=True)
        )
        self.norm = nn.LayerNorm(sum(shares))
        self.project = nn.Linear(sum(shares), width) if form == "projected" else nn.Identity()
        initialise(self)

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        """Join vectors, each (B, its width), to r (B, D)."""
        joined = torch.cat([part(vector) for part, vector in zip(self.parts, vectors, strict=True)], dim=-1)
        condition: Tensor = self.project(self.norm(joined))
        return condition
