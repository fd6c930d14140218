"""Dense tasks that teach an image encoder what segments are, before and beside the masks of single prompts.

A prompt tells about one segment; these tell about all of an image at a fraction of the cost: what covers the ground,
where segments meet, and how far it is from each place to the four sides of its own segment's box.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DETAIL = 4
"""Targets are predicted at this many sub-cells a side of every token."""


class DenseHead(nn.Module):
    """A linear head on the image embedding; thrown away after training.

    Args:
        channels: Of the embedding.
        classes: Number of land-cover classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self._parts = (classes, 1, 4)
        self.linear = nn.Conv2d(channels, sum(self._parts) * DETAIL**2, 1)

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map embeddings (B, C, h, w) to logits of land cover and of borders, and sides, at DETAIL·h × DETAIL·w."""
        land_cover, border, sides = F.pixel_shuffle(self.linear(embeddings), DETAIL).split(self._parts, dim=1)
        return land_cover, border, sides

    def loss(self, embeddings: Tensor, land_cover: Tensor, segments: Tensor) -> Tensor:
        """Return the sum of the three tasks' losses.

        Args:
            embeddings: (B, C, h, w).
            land_cover: (B, H, W) class indices.
            segments: (B, H, W) segment numbers, of any sign.
        """
        cover, border, sides = self(embeddings)
        cell = segments.shape[-1] // cover.shape[-1]
        middle = slice(cell // 2, None, cell)
        return (
            0.5 * F.cross_entropy(cover, land_cover[:, middle, middle].long())
            + F.binary_cross_entropy_with_logits(border, F.avg_pool2d(borders(segments).float()[:, None], cell))
            + F.l1_loss(sides, (1 + box_sides(segments)[:, :, middle, middle]).log() / 2)
        )


def borders(segments: Tensor) -> Tensor:
    """Return where a pixel of (B, H, W) has a neighbour to its side, above or below of another segment."""
    found = torch.zeros_like(segments, dtype=torch.bool)
    across, down = segments[:, :, 1:] != segments[:, :, :-1], segments[:, 1:] != segments[:, :-1]
    found[:, :, 1:] |= across
    found[:, :, :-1] |= across
    found[:, 1:] |= down
    found[:, :-1] |= down
    return found


def box_sides(segments: Tensor) -> Tensor:
    """Return how many pixels lie between each pixel of (B, H, W) and the sides of its segment's box.

    Returns:
        (B, 4, H, W) float32: to the left, top, right and bottom; 0 on that side itself.
    """
    images, height, width = segments.shape
    numbers = segments.long() - segments.min().long()
    many = int(numbers.max()) + 1
    key = (numbers + many * torch.arange(images, device=segments.device)[:, None, None]).flatten()
    y, x = torch.meshgrid(
        torch.arange(height, device=key.device), torch.arange(width, device=key.device), indexing="ij"
    )

    def reduced(values: Tensor, how: str, start: int) -> Tensor:
        table = torch.full((images * many,), start, device=key.device)
        table = table.scatter_reduce(0, key, values.expand(images, -1, -1).flatten(), how)
        return table[key].view(images, height, width)

    left, top = x - reduced(x, "amin", width), y - reduced(y, "amin", height)
    right, bottom = reduced(x, "amax", -1) - x, reduced(y, "amax", -1) - y
    return torch.stack([left, top, right, bottom], dim=1).float()
