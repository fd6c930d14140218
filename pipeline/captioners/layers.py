"""Layers that encoders, fusions and decoder share: attention, feed-forward, positional embeddings, pooling of sets."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention.

    Keys and values are a separate call, because a decoder projects an image once for all captions of its pair
    and keeps those of earlier words.

    Args:
        width: Width D of queries and output, a multiple of `heads`.
        heads: Number of heads H; each has d = D / H channels.
        memory_width: Width of the memory (keys and values); the same as `width` when not given.
    """

    def __init__(self, width: int, heads: int, memory_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.memory = nn.Linear(memory_width or width, 2 * width)
        self.output = nn.Linear(width, width)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Project the memory, (N, S, memory_width), to keys and values, each (N, H, S, d)."""
        keys, values = self.memory(memory).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend from `x` to `keys` and `values`.

        Args:
            x: Queries before projection, (N, T, D).
            keys: (N, H, S, d).
            values: (N, H, S, d).
            mask: Broadcastable to (N, H, T, S): added to the logits when floating, True where attention may go
                when boolean.
            causal: Query t attends to keys 0…t only; not together with `mask`.

        Returns:
            (N, T, D).
        """
        if mask is not None and mask.is_floating_point():
            mask = mask.to(keys.dtype)
        heads = F.scaled_dot_product_attention(self._split(self.query(x)), keys, values, mask, is_causal=causal)
        output: Tensor = self.output(heads.transpose(1, 2).flatten(2))
        return output

    def weights(self, x: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attention weights that `forward` applies, (N, H, T, S), float32; `mask` is additive."""
        queries = self._split(self.query(x))
        logits = (queries @ keys.transpose(-1, -2)).float() * queries.shape[-1] ** -0.5
        return torch.softmax(logits if mask is None else logits + mask, dim=-1)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, x.shape[-1] // self.heads).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Two linear layers with a GELU between them: (…, width) to (…, width).

    Args:
        width: Width of input and output.
        multiple: Hidden width as a multiple of `width`.
    """

    def __init__(self, width: int, multiple: int) -> None:
        super().__init__(nn.Linear(width, multiple * width), nn.GELU(), nn.Linear(multiple * width, width))


def initialise(module: nn.Module) -> None:
    """Give linear layers Xavier-uniform weights and zero biases, convolutions He-normal weights."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def sinusoid(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return the sine and cosine waves of "Attention is all you need", section 3.5.

    Args:
        length: Number of positions.
        width: Channels, even; the first half holds sines, the second cosines of wavelengths 2π to 20000π.
        device: Where the table is made.

    Returns:
        (length, width) float32, each row of norm √(width / 2).
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(10000.0) / max(half, 1)))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def point_waves(points: Tensor, width: int, finest: int) -> Tensor:
    """Return sines and cosines of the coordinates of points in an image.

    With Q = width / 4 and k = 0 … Q − 1, coordinate x gives sin(π r_k x) and cos(π r_k x) where r_k rises
    geometrically from 1 to `finest`: the first wave distinguishes the two sides of the image, the last points that are
    1 / `finest` of it apart.

    Args:
        points: (…, 2), x and y as shares of the image.
        width: Channels, a multiple of 4; a quarter each for sin x, cos x, sin y, cos y.
        finest: Half periods of the shortest wave across the image.

    Returns:
        (…, width) float32.
    """
    quarter = width // 4
    steps = torch.arange(quarter, device=points.device) / max(quarter - 1, 1)
    angles = points.float().unsqueeze(-1) * (math.pi * float(finest) ** steps)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class GridPositions(nn.Module):
    """The 2-D positional embedding P of equation (1): half the channels encode the row, half the column.

    Args:
        height: Rows h of the grid.
        width: Columns w of the grid.
        channels: Channels of the embedding, a multiple of 4.
        learned: Learned vectors, drawn from N(0, 1); otherwise fixed waves.
    """

    def __init__(self, height: int, width: int, channels: int, *, learned: bool) -> None:
        super().__init__()
        half = channels // 2
        self.rows: Tensor
        self.columns: Tensor
        if learned:
            self.rows = nn.Parameter(torch.randn(height, half))
            self.columns = nn.Parameter(torch.randn(width, half))
        else:
            self.register_buffer("rows", sinusoid(height, half), persistent=False)
            self.register_buffer("columns", sinusoid(width, half), persistent=False)

    def forward(self) -> Tensor:
        """Return P flattened row by row, (h·w, channels)."""
        height, width = len(self.rows), len(self.columns)
        rows = self.rows[:, None].expand(height, width, -1)
        columns = self.columns[None].expand(height, width, -1)
        return torch.cat([rows, columns], dim=-1).flatten(0, 1)


class SetPooling(nn.Module):
    """Pool sets to one vector each; neither the order of the members nor padding changes it.

    "mean": (1/N) Σ_i x_i. "attention": Σ_i a_i x_i with a = softmax_i(q · x_i / √w) and a learned query q, which
    starts at zero and so as the mean. A set without members is pooled to a vector e that is learned, starting at
    zero, or stays zero.

    Args:
        width: Width w of a member.
        kind: Which of the two.
        empty: Whether e is learned.
    """

    def __init__(self, width: int, kind: Literal["mean", "attention"], empty: Literal["learned", "zero"]) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width)) if kind == "attention" else None
        self.empty = nn.Parameter(torch.zeros(width)) if empty == "learned" else None

    def forward(self, members: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pool B sets.

        Args:
            members: (B, N, w), padded; N may be 0.
            mask: (B, N) boolean, True at members.

        Returns:
            (B, w) float32, and the members' weights (B, N), which sum to 1, or to 0 where there are no members.
        """
        members = members.float().masked_fill(~mask.unsqueeze(-1), 0.0)
        if self.query is None:
            weights = mask / mask.sum(1, keepdim=True).clamp(min=1)
        else:
            logits = (members * self.query).sum(-1) * members.shape[-1] ** -0.5
            # Not −∞: a set without members would get weights that are NaN.
            weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(1) * mask
        pooled = (weights.unsqueeze(-1) * members).sum(1)
        if self.empty is not None:
            pooled = torch.where(mask.any(1, keepdim=True), pooled, self.empty)
        return pooled, weights
