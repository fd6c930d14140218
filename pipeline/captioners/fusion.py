"""How regions and the caption graph join the scenes: as one vector r, or as tokens that attend to each other.

`ConditionVectorFusion` is equation (17) of the paper, `CrossAttentionFusion` the authors' release. Both are made of the
region tokens and the graph branch that stand before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Self

import torch
from torch import Tensor, nn

from pipeline.captioners.generation import stable_topk
from pipeline.captioners.inputs import Memory, Regions, Shapes, SideInputs
from pipeline.captioners.layers import Attention, FeedForward, SetPooling, initialise, point_waves
from pipeline.captioners.settings import ConditionVectorSettings, CrossAttentionSettings, SideInputSettings
from pipeline.errors import CheckpointError
from pipeline.graph_encoders.tensors import GraphTensors
from pipeline.vision.regions.descriptor import DescriptorHead
from pipeline.vision.regions.settings import GRID, HeadSettings


class RegionTokens(nn.Module):
    """One token for each region: x = [W z + b; PE(k)] + e_date, and x + FFN(x) where a feed-forward layer is asked for.

    Args:
        features: Width d of the region features z.
        width: Width that z is projected to; None: not projected.
        dates: Whether a learned vector marks the region's date.
        centroid_width: Channels of the centroid's encoding PE; 0: none.
        centroid_waves: Half periods of its shortest wave.
        feedforward: Hidden width of the feed-forward layer as a multiple of the token's; 0: none.
    """

    def __init__(
        self,
        features: int,
        width: int | None,
        *,
        dates: bool,
        centroid_width: int = 0,
        centroid_waves: int = 1,
        feedforward: int = 0,
    ) -> None:
        super().__init__()
        self.centroid_width, self.centroid_waves = centroid_width, centroid_waves
        self.width = (width or features) + centroid_width
        self.project = nn.Linear(features, width) if width else nn.Identity()
        self.feedforward = FeedForward(self.width, feedforward) if feedforward else None
        initialise(self)
        self.dates = nn.Parameter(torch.randn(2, self.width) * self.width**-0.5) if dates else None

    def forward(self, regions: Regions) -> Tensor:
        """Return the tokens (B, N, width); those of padding are finite and without meaning."""
        padding = ~regions.mask.unsqueeze(-1)
        # A half-precision cache meets weights of full precision here; under autocast the layer itself casts down.
        tokens: Tensor = self.project(regions.features.masked_fill(padding, 0.0).float())
        if self.centroid_width and regions.centroids is not None:
            points = regions.centroids.masked_fill(padding, 0.0)
            tokens = torch.cat([tokens, point_waves(points, self.centroid_width, self.centroid_waves)], dim=-1)
        if self.dates is not None and regions.dates is not None:
            tokens = tokens + self.dates[regions.dates.masked_fill(~regions.mask, 0)]
        return tokens if self.feedforward is None else tokens + self.feedforward(tokens)


def keep_best(regions: Regions, count: int | None) -> Regions:
    """Keep each pair's `count` regions of largest score, equation (12); of equal scores the earlier.

    Args:
        regions: With scores, unless `count` is None.
        count: q; None keeps all.

    Returns:
        Regions (B, min(q, N)), best first.
    """
    if count is None or regions.scores is None:
        return regions
    # Below every score: similarities are cosines or probabilities.
    scores = regions.scores.float().masked_fill(~regions.mask, -torch.inf)
    _, best = stable_topk(scores, min(count, scores.shape[1]))
    rows = torch.arange(len(best), device=best.device).unsqueeze(1)
    return replace(
        regions,
        features=regions.features[rows, best],
        mask=regions.mask[rows, best],
        dates=None if regions.dates is None else regions.dates[rows, best],
        centroids=None if regions.centroids is None else regions.centroids[rows, best],
        scores=regions.scores[rows, best],
        rows=None if regions.rows is None else regions.rows[rows, best],
    )


class LearnedDescriptors(nn.Module):
    """Z = g(X), equation (8), with the convolutional head of `DescriptorHead`.

    Args:
        features: Values C·49 of a region's grid X of 7×7.
        width: Width d of Z.

    Raises:
        CheckpointError: `features` is not the size of grids.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.channels, rest = divmod(features, GRID * GRID)
        if rest or not self.channels:
            raise CheckpointError(
                f"features of {features} values are no {GRID}×{GRID} grids",
                where="inputs.descriptor_width",
                fix="run `sagecc regions --set regions.store=grids`, or set it to null",
            )
        self.head = DescriptorHead(self.channels, HeadSettings(kind="conv", width=width))

    def forward(self, regions: Regions) -> Regions:
        """Return the regions with descriptors (B, N, d), zeros as padding, in the place of grids (B, N, C·49)."""
        grids = regions.features[regions.mask].float().unflatten(1, (self.channels, GRID, GRID))
        described: Tensor = self.head(grids)
        features = described.new_zeros(*regions.mask.shape, self.head.width)
        features[regions.mask] = described
        return replace(regions, features=features)


class GraphBranch(nn.Module):
    """Graph encoder of equation (15), with the readout of (16) where one vector is asked for.

    Args:
        settings: The encoder, its readout, and whether it is frozen; a readout that has weights learns all the same.
        features: Width g of the node features.
        relations: Number R of relations.
        readout: Whether the graph becomes one vector or keeps a state for each node.
    """

    def __init__(self, settings: SideInputSettings, features: int, relations: int, *, readout: bool) -> None:
        # PyTorch Geometric takes seconds to import, and most captioners have no graph.
        from pipeline.graph_encoders.encoders import GraphEncoder, Readout

        super().__init__()
        self.frozen = settings.frozen_graph
        self.encoder = GraphEncoder(settings.graph_encoder, features, relations)
        self.encoder.requires_grad_(not self.frozen)
        self.width = self.encoder.width
        self.readout = Readout(settings.graph_encoder, self.width) if readout else None

    def forward(self, graph: GraphTensors) -> tuple[Tensor, Tensor | None]:
        """Return F_kg (width,) and the weights of the nodes in it, (V,); or the nodes' states H (V, width) and None.

        They are float32 under autocast too.
        """
        if graph.features.dtype != torch.float32:
            graph = replace(graph, features=graph.features.float())
        # One small graph serves the whole batch: half precision would gain nothing.
        with torch.autocast(graph.features.device.type, enabled=False):
            states: Tensor = self.encoder(graph)
            if self.readout is None:
                return states, None
            read: tuple[Tensor, Tensor] = self.readout(states)
        return read

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of a pretrained encoder, those in encoder.safetensors.

        Raises:
            CheckpointError: They are of another encoder.
        """
        try:
            self.encoder.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise CheckpointError(
                "the pretrained graph encoder has other layers than the captioner's",
                where="models.graph_encoder",
                fix="run `sagecc graph` with these settings",
            ) from error


class ConditionVectorFusion(nn.Module):
    """F_disc, F_sem and F_kg → r of equation (17), the decoder's condition.

    F_disc is pooled from the motion regions of both dates, each a descriptor beside its centroid's encoding; F_sem
    from the semantic regions; F_kg is the readout of the graph. Where the settings leave one out, r is made of the
    others.

    Args:
        inputs: Which side inputs are read.
        settings: How it is pooled and joined.
        shapes: Shapes of the side inputs.
        width: Width D of the decoder.
    """

    def __init__(
        self, inputs: SideInputSettings, settings: ConditionVectorSettings, shapes: Shapes, width: int
    ) -> None:
        super().__init__()
        self.top_q = inputs.top_q
        self.motion: RegionVector | None = None
        self.semantics: RegionVector | None = None
        self.graph: GraphBranch | None = None
        dates, widths = inputs.date_embedding, []
        if inputs.regions:
            self.motion = RegionVector(settings, shapes["regions"][0], dates=dates, centroids=True)
            widths.append(self.motion.width)
        if inputs.semantics:
            self.semantics = RegionVector(settings, shapes["semantics"][0], dates=dates, centroids=False)
            widths.append(self.semantics.width)
        if inputs.graph:
            self.graph = GraphBranch(inputs, *shapes["graph"], readout=True)
            widths.append(self.graph.width)
        self.condition = Condition(widths, width, settings.condition)

    def forward(self, memory: Memory, inputs: SideInputs) -> Memory:
        """Return `memory` with r, (B, D), as its condition, and with the weights of regions and nodes in it.

        Args:
            memory: Scenes of B pairs.
            inputs: Side inputs of the same pairs, checked by `validate_inputs`.
        """
        pooled: dict[str, tuple[Tensor, Tensor]] = {}
        if self.motion is not None and inputs.regions is not None:
            pooled["motion"] = self.motion(inputs.regions)
        if self.semantics is not None and inputs.semantics is not None:
            pooled["semantics"] = self.semantics(keep_best(inputs.semantics, self.top_q))
        if self.graph is not None and inputs.graph is not None:
            vector, weights = self.graph(inputs.graph)
            pooled["nodes"] = vector.expand(len(memory), -1), weights.expand(len(memory), -1)
        condition = self.condition([vector for vector, _ in pooled.values()])
        return replace(memory, condition=condition, shares={name: weights for name, (_, weights) in pooled.items()})


class RegionVector(nn.Module):
    """A pair's regions as one vector: F_disc or F_sem.

    Args:
        settings: Projection, encoding and pooling.
        features: Width of descriptors or embeddings.
        dates: Whether a learned vector tells a region's date.
        centroids: Whether regions carry the encoding of their centroids.
    """

    def __init__(self, settings: ConditionVectorSettings, features: int, *, dates: bool, centroids: bool) -> None:
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
        """Pool the regions of B pairs to (B, width) float32; return their weights (B, N) too, see `SetPooling`."""
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
        count = len(inputs)
        shares = [width] * count if form == "projected" else [(width + index) // count for index in range(count)]
        self.parts = nn.ModuleList(
            nn.Linear(size, share, bias=False) for size, share in zip(inputs, shares, strict=True)
        )
        self.norm = nn.LayerNorm(sum(shares))
        self.project = nn.Linear(sum(shares), width) if form == "projected" else nn.Identity()
        initialise(self)

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        """Join vectors, each (B, its width), to r (B, D)."""
        joined = torch.cat([project(vector) for project, vector in zip(self.parts, vectors, strict=True)], dim=-1)
        condition: Tensor = self.project(self.norm(joined))
        return condition


class CrossAttentionFusion(nn.Module):
    """Image tokens X and tokens E = [motion regions; semantic regions; nodes] → memory [X; E'; X'].

    Each region and each node is a token of its own, brought to the image tokens' width by a linear layer.
    X' = block(X, E) and E' = block(E, X): both directions start from the tokens as they were.

    Args:
        inputs: Which side inputs are read.
        settings: Heads, feed-forward and dropout of the blocks.
        shapes: Shapes of the side inputs.
        channels: Channels C_e of the image tokens.
    """

    def __init__(
        self, inputs: SideInputSettings, settings: CrossAttentionSettings, shapes: Shapes, channels: int
    ) -> None:
        super().__init__()
        self.top_q = inputs.top_q
        self.motion: RegionTokens | None = None
        self.semantics: RegionTokens | None = None
        self.graph: GraphBranch | None = None
        if inputs.regions:
            self.motion = RegionTokens(shapes["regions"][0], channels, dates=inputs.date_embedding)
        if inputs.semantics:
            self.semantics = RegionTokens(shapes["semantics"][0], channels, dates=inputs.date_embedding)
        if inputs.graph:
            self.graph = GraphBranch(inputs, *shapes["graph"], readout=False)
            self.nodes = nn.Linear(self.graph.width, channels)
            initialise(self.nodes)
        self.image_block = CrossBlock(channels, settings)
        self.evidence_block = CrossBlock(channels, settings)

    def forward(self, memory: Memory, inputs: SideInputs) -> Memory:
        """Return `memory` with the tokens [X; E'; X'], (B, 2·h·w + S, C_e), and their mask.

        Args:
            memory: Scenes of B pairs.
            inputs: Side inputs of the same pairs, checked by `validate_inputs`.
        """
        image = memory.tokens
        sections = self._tokens(inputs, len(image))
        tokens, mask = (torch.cat(values, dim=1) for values in zip(*(section for _, *section in sections), strict=True))
        attended_image = self.image_block(image, tokens, mask)
        attended_tokens = self.evidence_block(tokens, image, None)
        cells = mask.new_ones(image.shape[:2])
        return replace(
            memory,
            tokens=torch.cat([image, attended_tokens, attended_image], dim=1),
            mask=torch.cat([cells, mask, cells], dim=1),
            sections=(
                ("image", image.shape[1]),
                *((name, section.shape[1]) for name, section, _ in sections),
                ("image attended", image.shape[1]),
            ),
        )

    def _tokens(self, inputs: SideInputs, pairs: int) -> list[tuple[str, Tensor, Tensor]]:
        """Return name, tokens (B, N, C_e) and mask (B, N) of each kind that there is."""
        tokens: list[tuple[str, Tensor, Tensor]] = []
        if self.motion is not None and inputs.regions is not None:
            tokens.append(("motion", self.motion(inputs.regions), inputs.regions.mask))
        if self.semantics is not None and inputs.semantics is not None:
            best = keep_best(inputs.semantics, self.top_q)
            tokens.append(("semantics", self.semantics(best), best.mask))
        if self.graph is not None and inputs.graph is not None:
            states, _ = self.graph(inputs.graph)
            nodes: Tensor = self.nodes(states).expand(pairs, -1, -1)
            tokens.append(("nodes", nodes, torch.ones(nodes.shape[:2], dtype=torch.bool, device=nodes.device)))
        return tokens


class CrossBlock(nn.Module):
    """y = x + CA(LN x, LN' m), then y + FFN(LN y); without a memory to attend to, y = x.

    Args:
        width: Width of both sides, a multiple of the heads.
        settings: Heads, feed-forward, dropout, and whether LN' is LN, as in the release.
    """

    def __init__(self, width: int, settings: CrossAttentionSettings) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width)
        self.memory_norm = None if settings.shared_norm else nn.LayerNorm(width)
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
        norm = self.query_norm if self.memory_norm is None else self.memory_norm
        keys, values = self.attention.keys_values(norm(memory))
        if mask is None:
            update = self.attention(self.query_norm(x), keys, values)
        else:
            # Rows without any valid key attend to padding, since a softmax over nothing is NaN; their result is zeroed.
            has_key = mask.any(1, keepdim=True)
            update = self.attention(self.query_norm(x), keys, values, mask=(mask | ~has_key)[:, None, None])
            update = update * has_key.unsqueeze(2)
        x = x + self.dropout(update)
        y: Tensor = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return y
