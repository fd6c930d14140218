"""Fusion as in the authors' release: image, region and node tokens attend to each other."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.captioners.attention import Attention, FeedForward, initialise
from pipeline.captioners.evidence import Evidence, EvidenceWidths
from pipeline.captioners.fusion_settings import EvidenceSettings, ReleaseFusionSettings
from pipeline.captioners.graph_branch import GraphBranch
from pipeline.captioners.memory import Memory
from pipeline.captioners.region_tokens import RegionTokens, keep_best


class ReleaseFusion(nn.Module):
    """Image tokens X and tokens E = [motion regions; semantic regions; nodes] → memory [X; E'; X'].

    Each region and each node is a token of its own, brought to the image tokens' width by a linear layer.
    X' = block(X, E) and E' = block(E, X): both directions start from the tokens as they were.

    Args:
        evidence: What is taken.
        settings: Heads, feed-forward and dropout of the blocks.
        widths: Widths of what is taken.
        channels: Channels C_e of the image tokens.
    """

    def __init__(
        self, evidence: EvidenceSettings, settings: ReleaseFusionSettings, widths: EvidenceWidths, channels: int
    ) -> None:
        super().__init__()
        self.top_q = evidence.top_q
        self.motion: RegionTokens | None = None
        self.semantics: RegionTokens | None = None
        self.graph: GraphBranch | None = None
        if evidence.motion and widths.motion is not None:
            self.motion = RegionTokens(widths.motion, channels, dates=evidence.date_embedding)
        if evidence.semantics and widths.semantics is not None:
            self.semantics = RegionTokens(widths.semantics, channels, dates=evidence.date_embedding)
        if evidence.graph and widths.nodes is not None and widths.relations is not None:
            self.graph = GraphBranch(evidence, widths.nodes, widths.relations, readout=False)
            self.nodes = nn.Linear(self.graph.width, channels)
            initialise(self.nodes)
        self.image_block = CrossBlock(channels, settings)
        self.evidence_block = CrossBlock(channels, settings)

    def forward(self, memory: Memory, evidence: Evidence) -> Memory:
        """Return `memory` with the tokens [X; E'; X'], (B, 2·h·w + S, C_e), and their mask.

        Args:
            memory: Scenes of B pairs.
            evidence: Of the same pairs, checked by `checked_evidence`.
        """
        image = memory.tokens
        named = self._tokens(evidence, len(image))
        tokens, mask = (torch.cat(parts, dim=1) for parts in zip(*(pair for _, *pair in named), strict=True))
        looked = self.image_block(image, tokens, mask)
        answered = self.evidence_block(tokens, image, None)
        cells = mask.new_ones(image.shape[:2])
        return replace(
            memory,
            tokens=torch.cat([image, answered, looked], dim=1),
            mask=torch.cat([cells, mask, cells], dim=1),
            sections=(
                ("image", image.shape[1]),
                *((name, part.shape[1]) for name, part, _ in named),
                ("image attended", image.shape[1]),
            ),
        )

    def _tokens(self, evidence: Evidence, pairs: int) -> list[tuple[str, Tensor, Tensor]]:
        """Return name, tokens (B, N, C_e) and mask (B, N) of each kind that there is."""
        found: list[tuple[str, Tensor, Tensor]] = []
        if self.motion is not None and evidence.motion is not None:
            found.append(("motion", self.motion(evidence.motion), evidence.motion.mask))
        if self.semantics is not None and evidence.semantics is not None:
            best = keep_best(evidence.semantics, self.top_q)
            found.append(("semantics", self.semantics(best), best.mask))
        if self.graph is not None and evidence.graph is not None:
            states, _ = self.graph(evidence.graph)
            nodes: Tensor = self.nodes(states).expand(pairs, -1, -1)
            found.append(("nodes", nodes, torch.ones(nodes.shape[:2], dtype=torch.bool, device=nodes.device)))
        return found


class CrossBlock(nn.Module):
    """y = x + CA(LN x, LN m), then y + FFN(LN y); where there is nothing to attend to, y = x.

    Args:
        width: Width of both sides, a multiple of the heads.
        settings: Heads, feed-forward and dropout.
    """

    def __init__(self, width: int, settings: ReleaseFusionSettings) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(width)
        self.attention = Attention(width, settings.heads)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, settings.feedforward)
        self.dropout = nn.Dropout(settings.dropout)
        initialise(self)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Let x attend to `memory`.

        Args:
            x: (B, T, width).
            memory: (B, S, width); S may be 0.
            mask: (B, S) boolean, False at tokens that pad; None where none does.

        Returns:
            (B, T, width).
        """
        if not memory.shape[1]:
            memory, mask = memory.new_zeros(len(x), 1, x.shape[2]), x.new_zeros((len(x), 1), dtype=torch.bool)
        keys, values = self.attention.keys_values(self.memory_norm(memory))
        if mask is None:
            update = self.attention(self.query_norm(x), keys, values)
        else:
            # A softmax over nothing is no number: who has nothing attends to padding, and the result does not count.
            some = mask.any(1, keepdim=True)
            update = self.attention(self.query_norm(x), keys, values, mask=(mask | ~some)[:, None, None])
            update = update * some.unsqueeze(2)
        x = x + self.dropout(update)
        y: Tensor = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return y
