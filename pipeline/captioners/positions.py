"""Positional embeddings of words and of grid cells."""

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
