"""Padded batches of the regions of both dates of several pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.vision.regions.cache import RegionSet


@dataclass(frozen=True)
class RegionPairs:
    """A batch of B pairs, both dates padded to N regions; axis 1 is the date, 0 before and 1 after.

    Coordinates are in pixels of the image, x right, y down, its corner being (0, 0).

    Attributes:
        centroids: (B, 2, N, 2) float32 px.
        boxes: (B, 2, N, 4) float32 px.
        descriptors: (B, 2, N, d) float32.
        scores: (B, 2, N) float32.
        valid: (B, 2, N) bool, false at padding. What the other tensors hold there changes no result.
        sizes: (B, 2, 2) float32, height and width of the images.
    """

    centroids: Tensor
    boxes: Tensor
    descriptors: Tensor
    scores: Tensor
    valid: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.valid)

    def to(self, device: torch.device) -> RegionPairs:
        """Return the batch on `device`."""
        return RegionPairs(*(tensor.to(device) for tensor in vars(self).values()))

    def take(self, rows: Tensor | slice) -> RegionPairs:
        """Return the pairs at `rows`."""
        return RegionPairs(*(tensor[rows] for tensor in vars(self).values()))

    def trimmed(self) -> RegionPairs:
        """Return the batch without the padding that all its pairs share; one region a side stays."""
        length = max(int(self.valid.sum(2).max()), 1)
        return RegionPairs(
            *(tensor if name == "sizes" else tensor[:, :, :length] for name, tensor in vars(self).items())
        )

    @property
    def both_valid(self) -> Tensor:
        """(B, N, N) bool: neither the row nor the column is padding."""
        return self.valid[:, 0, :, None] & self.valid[:, 1, None, :]

    @property
    def normalised_centroids(self) -> Tensor:
        """(B, 2, N, 2): SuperGlue's coordinates, (x − width/2) / (0.7 · longer side), and y likewise."""
        return (self.centroids - self.sizes.flip(-1)[:, :, None] / 2) / self._scale

    @property
    def normalised_extents(self) -> Tensor:
        """(B, 2, N, 2): width and height of the boxes on the scale of the normalised centroids."""
        return (self.boxes[..., 2:] - self.boxes[..., :2]) / self._scale

    @property
    def _scale(self) -> Tensor:
        return 0.7 * self.sizes.amax(-1)[:, :, None, None]


def collate(pairs: Sequence[tuple[RegionSet, RegionSet]], length: int) -> RegionPairs:
    """Pad pairs of region sets to `length` regions a side.

    Raises:
        ValueError: An image has more regions, or descriptors of another width than the first one.
    """
    width = pairs[0][0].descriptors.shape[1]
    batch = RegionPairs(
        centroids=torch.zeros(len(pairs), 2, length, 2),
        boxes=torch.zeros(len(pairs), 2, length, 4),
        descriptors=torch.zeros(len(pairs), 2, length, width),
        scores=torch.zeros(len(pairs), 2, length),
        valid=torch.zeros(len(pairs), 2, length, dtype=torch.bool),
        sizes=torch.zeros(len(pairs), 2, 2),
    )
    for row, pair in enumerate(pairs):
        for date, regions in enumerate(pair):
            count = len(regions)
            if count > length:
                raise ValueError(f"{count} regions in a batch padded to {length}")
            for name in ("centroids", "boxes", "descriptors", "scores"):
                values = torch.from_numpy(np.ascontiguousarray(getattr(regions, name), dtype=np.float32))
                getattr(batch, name)[row, date, :count] = values
            batch.valid[row, date, :count] = True
            batch.sizes[row, date] = torch.tensor(regions.size, dtype=torch.float32)
    return batch
