"""Regions as tokens: what they look like, where they are and when."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.captioners.attention import FeedForward, initialise
from pipeline.captioners.positions import point_waves
from pipeline.captioners.regions import Regions
from pipeline.captioners.selection import ranked_top


class RegionTokens(nn.Module):
    """One token for each region: x = [W z + b; PE(k)] + e_date, and x + FFN(x) where a feed-forward layer is asked for.

    Args:
        features: Width d of what a region looks like, z.
        width: Width that z is projected to; None: not projected.
        dates: Whether a learned vector tells the region's date.
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
        """Return the tokens (B, N, width); those that pad are finite and mean nothing."""
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
    _, places = ranked_top(scores, min(count, scores.shape[1]))
    rows = torch.arange(len(places), device=places.device).unsqueeze(1)
    return replace(
        regions,
        features=regions.features[rows, places],
        mask=regions.mask[rows, places],
        dates=None if regions.dates is None else regions.dates[rows, places],
        centroids=None if regions.centroids is None else regions.centroids[rows, places],
        scores=regions.scores[rows, places],
        rows=None if regions.rows is None else regions.rows[rows, places],
    )
