"""The descriptor head g of equation (8) as a module: grids of 7×7 in, one vector per region out."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.vision.regions.settings import HeadSettings


class DescriptorHead(nn.Module):
    """Z = g(X) of equation (8).

    `mean` averages over the grid and has no weights. `conv` is Conv 3×3 – GELU – average – linear.

    Args:
        channels: C, the width of the grids.
        settings: Kind, width, normalisation.

    Attributes:
        width: d, the width of the descriptors.
    """

    def __init__(self, channels: int, settings: HeadSettings) -> None:
        super().__init__()
        self.width = channels if settings.kind == "mean" else settings.width
        self.normalise = settings.normalise
        self.convolution: nn.Module = nn.Identity()
        self.projection: nn.Module = nn.Identity()
        if settings.kind == "conv":
            self.convolution = nn.Sequential(nn.Conv2d(channels, settings.width, 3, padding=1), nn.GELU())
            self.projection = nn.Linear(settings.width, settings.width)
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    nn.init.orthogonal_(parameter)
                else:
                    nn.init.zeros_(parameter)

    def forward(self, grids: Tensor) -> Tensor:
        """Map grids (N, C, 7, 7) to descriptors (N, d)."""
        z: Tensor = self.projection(self.convolution(grids).flatten(2).mean(-1))
        return F.normalize(z, dim=-1) if self.normalise else z
