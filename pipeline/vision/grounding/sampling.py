"""Deformable attention's sampling, level by level and point by point.

groundingdino's own lays the samples of all levels next to each other before it weighs them: copies as large as the
features times levels times points. On a CPU they cost more than the sampling.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sample(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Sum bilinear samples of feature maps (Deformable DETR, Zhu et al. 2021, equation 3).

    Args:
        value: (B, N, H, D): all levels' cells one after the other, H heads.
        shapes: (L, 2) rows and columns of every level.
        locations: (B, Q, H, L, P, 2): x, y as shares of the map.
        weights: (B, Q, H, L, P).

    Returns:
        (B, Q, H·D) in the type of `weights`.
    """
    batch, _, heads, width = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    grids = (2 * locations.float() - 1).permute(3, 4, 0, 2, 1, 5).reshape(levels, points, batch * heads, queries, 1, 2)
    shares = weights.permute(3, 4, 0, 2, 1).reshape(levels, points, batch * heads, 1, queries, 1)
    sizes = shapes.tolist()
    total = value.new_zeros(batch * heads, width, queries, 1, dtype=torch.float32)
    for level, part in enumerate(value.float().split([rows * columns for rows, columns in sizes], dim=1)):
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, width, *sizes[level])
        for point in range(points):
            seen = F.grid_sample(maps, grids[level, point], mode="bilinear", padding_mode="zeros", align_corners=False)
            total = total + seen * shares[level, point]
    return total.view(batch, heads * width, queries).transpose(1, 2).to(weights.dtype)
