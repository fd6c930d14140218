"""Examples as tensors: descriptors computed once, correspondences beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.vision.matching.examples.making import View
from pipeline.vision.matching.pairs import RegionPairs, collate
from pipeline.vision.regions.cache import RegionSet
from pipeline.vision.regions.descriptor import region_descriptors
from pipeline.vision.regions.head import DescriptorHead
from pipeline.vision.regions.settings import RoiSettings
from pipeline.vision.sam.encoding import ImageEncoder

Example = tuple[View, View, NDArray[np.int64]]
"""Two views, and of each region of the first the number of the one of the second that is the same, −1 for none."""


@dataclass(frozen=True)
class Examples:
    """Pairs of region sets whose correspondences are known.

    Attributes:
        pairs: B pairs of at most N regions a side; descriptors may be float16.
        counterpart: (B, N) int64, of each region before the number of the one after, −1 for none and at padding.
    """

    pairs: RegionPairs
    counterpart: Tensor

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, rows: Tensor | slice) -> Examples:
        """Return the examples at `rows`."""
        return Examples(self.pairs.take(rows), self.counterpart[rows])

    def to(self, device: torch.device) -> Examples:
        """Return the examples on `device`."""
        return Examples(self.pairs.to(device), self.counterpart.to(device))

    def trimmed(self) -> Examples:
        """Return the examples without the padding that all of them share."""
        pairs = self.pairs.trimmed()
        return Examples(pairs, self.counterpart[:, : pairs.valid.shape[2]])

    def tensors(self) -> dict[str, Tensor]:
        """Return what `from_tensors` takes."""
        return {**vars(self.pairs), "counterpart": self.counterpart}

    @classmethod
    def from_tensors(cls, parts: Sequence[dict[str, Tensor]]) -> Examples:
        """Join the tensors of several sets of examples."""
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        counterpart = joined.pop("counterpart")
        return cls(RegionPairs(**joined), counterpart)


def joined(sets: Sequence[Examples]) -> Examples:
    """Return all examples of several sets, which have the same padding, as one."""
    return Examples.from_tensors([part.tensors() for part in sets])


class Describer(nn.Module):
    """Views → region sets, by SAM's image encoder, RoIAlign and the descriptor head: the way of the stage `regions`.

    Args:
        encoder: SAM's image encoder.
        head: g of equation (8).
        roi: RoIAlign.
        batch_size: Views per pass of the encoder.
    """

    def __init__(self, encoder: ImageEncoder, head: DescriptorHead, roi: RoiSettings, batch_size: int) -> None:
        super().__init__()
        self.head = head
        self._encoder, self._roi, self._batch_size = encoder, roi, batch_size

    @torch.inference_mode()
    def forward(self, views: Sequence[View]) -> list[RegionSet]:
        """Return the regions of each view, descriptors (N, d) float16."""
        found = []
        for start in range(0, len(views), self._batch_size):
            part = views[start : start + self._batch_size]
            sizes = [(view.image.shape[0], view.image.shape[1]) for view in part]
            # Rounded as they are where the stages store them.
            embeddings = self._encoder.encode([view.image for view in part]).half()
            descriptors = region_descriptors(
                embeddings,
                [torch.from_numpy(view.boxes) for view in part],
                [self._encoder.spatial_scale(*size) for size in sizes],
                sizes,
                self.head,
                self._roi,
                masks=[torch.from_numpy(view.masks) for view in part] if self._roi.mask_pooling else None,
            )
            rows = descriptors.half().cpu().split([len(view) for view in part])
            found += [_region_set(view, row.numpy()) for view, row in zip(part, rows, strict=True)]
        return found


def _region_set(view: View, descriptors: NDArray[np.float16]) -> RegionSet:
    return RegionSet(
        descriptors=descriptors,
        boxes=view.boxes,
        centroids=view.centroids,
        areas=view.masks.sum((1, 2)).astype(np.int32),
        scores=view.scores,
        size=(view.image.shape[0], view.image.shape[1]),
    )


def to_examples(made: Sequence[Example], describer: Describer, length: int) -> Examples:
    """Compute the descriptors of examples and pad them to `length` regions a side."""
    regions = describer([view for before, after, _ in made for view in (before, after)])
    pairs = collate(list(zip(regions[::2], regions[1::2], strict=True)), length)
    counterpart = torch.full((len(made), length), -1)
    for row, (_, _, numbers) in enumerate(made):
        counterpart[row, : len(numbers)] = torch.from_numpy(numbers)
    return Examples(pairs, counterpart)
