"""Positional embeddings of words, of grid cells and of points."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


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
    geometrically from 1 to `finest`: the first wave tells the two sides of the image apart, the last what lies
    1 / `finest` of it from another.

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
    """The 2-D positional embedding P of equation (1): half the channels tell the row, half the column.

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
