"""SuperGlue (Sarlin et al. 2020, arXiv 1911.11763) on padded batches, its tensors named as in Magic Leap's files."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.vision.matching.matcher import LearnedMatcher, RegionPairs
from pipeline.vision.matching.settings import SuperGlueSettings

LOG_ZERO = -1e9
"""Finite stand-in for log 0, since an infinity would make gradients NaN; its exponential is exactly 0."""


def log_optimal_transport(scores: Tensor, bin_score: Tensor, before: Tensor, after: Tensor, iterations: int) -> Tensor:
    """Solve optimal transport with dustbins by Sinkhorn iterations on logarithms (section 3.2 of SuperGlue).

    Every region has mass 1, the dustbin of each date the number of regions of the other date. Padding changes no other
    entry.

    Args:
        scores: (B, M, N), similarity of each region before with each one after.
        bin_score: Scalar, the score of every region with the dustbin.
        before: (B, M) bool, false at padding.
        after: (B, N) bool, false at padding.
        iterations: Number of times that rows and columns are normalised in turn.

    Returns:
        (B, M + 1, N + 1) log-probabilities; the last row and column are dustbins, padding is −1e9.
    """
    rows, columns = F.pad(before, (0, 1), value=True), F.pad(after, (0, 1), value=True)
    both_valid = rows[:, :, None] & columns[:, None, :]
    with_row = torch.cat([scores, bin_score.expand(len(scores), 1, scores.shape[2])], dim=1)
    table = torch.cat([with_row, bin_score.expand(len(scores), with_row.shape[1], 1)], dim=2)
    table = torch.where(both_valid, table, LOG_ZERO)
    row_mass, column_mass = _log_masses(before, after), _log_masses(after, before)
    u, v = torch.zeros_like(row_mass), torch.zeros_like(column_mass)
    for _ in range(iterations):
        u = torch.where(rows, row_mass - torch.logsumexp(table + v[:, None, :], dim=2), 0.0)
        v = torch.where(columns, column_mass - torch.logsumexp(table + u[:, :, None], dim=1), 0.0)
    return torch.where(both_valid, table + u[:, :, None] + v[:, None, :], LOG_ZERO)


def _log_masses(own: Tensor, other: Tensor) -> Tensor:
    """Return log masses (B, n + 1): log 1 for the regions of a date, log of the other date's number for its dustbin."""
    count = other.sum(1, keepdim=True)
    dustbin = torch.where(count > 0, count.clamp(min=1).float().log(), LOG_ZERO)
    return torch.cat([torch.zeros(own.shape, device=own.device), dustbin], dim=1)


class SuperGlue(LearnedMatcher):
    """Attention network over positions and descriptors of both dates, then optimal transport.

    Descriptors are first scaled to unit length, as SuperPoint's are.

    Args:
        settings: The layout.
        descriptor_width: d, channels of the descriptors.

    Raises:
        ValueError: The layout has no projection, and the descriptors are not as wide as its tokens.
    """

    def __init__(self, settings: SuperGlueSettings, descriptor_width: int) -> None:
        super().__init__()
        if not settings.project_descriptors and descriptor_width != settings.width:
            raise ValueError(f"descriptors of {descriptor_width} channels for tokens of {settings.width}")
        self._settings = settings
        width = settings.width
        self.input_proj = nn.Linear(descriptor_width, width) if settings.project_descriptors else None
        self.kenc = _KeypointEncoder(5 if settings.box_features else 3, settings.keypoint_encoder, width)
        self.gnn = _GraphNetwork(width, settings.heads, settings.layers)
        self.final_proj = _Pointwise(width, width)
        self.bin_score = nn.Parameter(torch.tensor(1.0))

    def log_assignment(self, pairs: RegionPairs) -> Tensor:
        """See `LearnedMatcher`."""
        # Both dates share the weights: one batch of 2·B sets, the dates of a pair next to each other.
        valid = pairs.valid.flatten(0, 1)
        features = [pairs.normalised_centroids, pairs.scores[..., None]]
        if self._settings.box_features:
            features.append(pairs.normalised_extents)
        descriptors = F.normalize(pairs.descriptors, dim=-1)
        if self.input_proj is not None:
            descriptors = self.input_proj(descriptors)
        positions = self.kenc(torch.cat(features, dim=-1).flatten(0, 1), valid)
        tokens = torch.where(valid[..., None], descriptors.flatten(0, 1) + positions, 0.0)
        tokens = self.final_proj(self.gnn(tokens, valid))
        before, after = tokens.unflatten(0, (-1, 2)).unbind(1)
        scores = before @ after.transpose(1, 2) / self._settings.width**0.5
        return log_optimal_transport(
            scores, self.bin_score, pairs.valid[:, 0], pairs.valid[:, 1], self._settings.sinkhorn_iterations
        )


class _Pointwise(nn.Conv1d):
    """Linear layer on (…, channels) whose weight is shaped as a convolution of width 1, as in the published files."""

    bias: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.squeeze(-1), self.bias)


def _perceptron(*channels: int) -> nn.Sequential:
    """Build linear layers with batch normalisation and ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels[:-1]):
        layers += [_Pointwise(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    last = _Pointwise(channels[-2], channels[-1])
    # As in the paper's code: the initial residual has no bias.
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def _by_token(perceptron: nn.Sequential, x: Tensor, valid: Tensor) -> Tensor:
    """Apply `perceptron` to each token (S, N, channels); in training, to those that are `valid` (S, N) only."""
    if not perceptron.training:
        mapped: Tensor = perceptron(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return mapped
    rows: Tensor = perceptron(x[valid])
    return rows.new_zeros(*valid.shape, rows.shape[1]).index_put((valid,), rows)


class _KeypointEncoder(nn.Module):
    def __init__(self, inputs: int, hidden: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.encoder = _perceptron(inputs, *hidden, width)

    def forward(self, positions: Tensor, valid: Tensor) -> Tensor:
        return _by_token(self.encoder, positions, valid)


class _Attention(nn.Module):
    """Multi-head attention; channel c belongs to head c mod heads, as in published weights."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.merge = _Pointwise(width, width)
        self.proj = nn.ModuleList([_Pointwise(width, width) for _ in range(3)])

    def forward(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """Return attention, queries: `x`, keys/values: `source`, both (S, N, width); `mask` (S, 1, 1, N) is added."""
        query, key, value = (
            layer(tokens).unflatten(-1, (-1, self._heads)).permute(0, 3, 1, 2)
            for layer, tokens in zip(self.proj, (x, source, source), strict=True)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        merged: Tensor = self.merge(attended.permute(0, 2, 3, 1).flatten(2))
        return merged


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = _Attention(width, heads)
        self.mlp = _perceptron(2 * width, 2 * width, width)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
        message = self.attn(x, source, mask)
        return x + _by_token(self.mlp, torch.cat([x, message], dim=-1), valid)


class _GraphNetwork(nn.Module):
    """Alternating layers of self-attention and of cross-attention to the other date."""

    def __init__(self, width: int, heads: int, pairs_of_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(width, heads) for _ in range(2 * pairs_of_layers)])

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Refine tokens (2·B, N, width), the dates of a pair next to each other."""
        # Finite, so that where a date has no region attention spreads over padding instead of being NaN. The other
        # date's regions then only have the dustbin to match.
        mask = torch.where(valid, 0.0, torch.finfo(x.dtype).min).to(x.dtype)[:, None, None]
        for number, layer in enumerate(self.layers):
            cross = number % 2 == 1
            source, source_mask = (_other_date(x), _other_date(mask)) if cross else (x, mask)
            x = layer(x, source, source_mask, valid)
        return x


def _other_date(x: Tensor) -> Tensor:
    other: Tensor = x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return other
