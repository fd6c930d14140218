"""Descriptors of motion regions by a head that is trained with the captioner."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from pipeline.captioners.regions import Regions
from pipeline.errors import CheckpointError
from pipeline.vision.regions.head import DescriptorHead
from pipeline.vision.regions.settings import GRID, HeadSettings


class LearnedDescriptors(nn.Module):
    """Z = g(X), equation (8), with the convolutional head of `DescriptorHead`.

    Args:
        features: Values C·49 of a region's grid X of 7×7.
        width: Width d of Z.

    Raises:
        CheckpointError: `features` are no grids.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.channels, rest = divmod(features, GRID * GRID)
        if rest or not self.channels:
            raise CheckpointError(
                f"features of {features} values are no {GRID}×{GRID} grids",
                where="evidence.descriptor_width",
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
