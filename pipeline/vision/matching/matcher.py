"""Interface of the matchers: padded batches of regions in, a confidence matrix per pair out (equation 9).

With it the matcher without weights, mutual nearest neighbours, and the assignment of equation (10), which turns
confidences into matches and unmatched regions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.vision.matching.settings import AssignmentSettings
from pipeline.vision.regions.cache import RegionSet
from pipeline.vision.tensors import TensorBatch


@dataclass(frozen=True)
class RegionPairs(TensorBatch):
    """The regions of B pairs, padded to N per date; axis 1 is the date, 0 before and 1 after.

    Coordinates are in pixels of the image, x right, y down, its corner being (0, 0).

    Attributes:
        centroids: (B, 2, N, 2) float32 px.
        boxes: (B, 2, N, 4) float32 px.
        descriptors: (B, 2, N, d) float32.
        scores: (B, 2, N) float32.
        valid: (B, 2, N) bool, false at padding, where the values of the other tensors do not matter.
        sizes: (B, 2, 2) float32, height and width of the images.
    """

    centroids: Tensor
    boxes: Tensor
    descriptors: Tensor
    scores: Tensor
    valid: Tensor
    sizes: Tensor

    def trimmed(self) -> RegionPairs:
        """Return the batch padded only to the largest number of regions in it, at least 1."""
        length = max(int(self.valid.sum(2).max()), 1)
        return RegionPairs(
            *(tensor if name == "sizes" else tensor[:, :, :length] for name, tensor in vars(self).items())
        )

    @property
    def both_valid(self) -> Tensor:
        """(B, N, N) bool, false where the row or the column is padding."""
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
    """Pad pairs of region sets to `length` regions per date and stack them.

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


class Matcher(nn.Module, ABC):
    """Model that gives a confidence for every region before and every region after to be the same one."""

    @abstractmethod
    def forward(self, pairs: RegionPairs) -> Tensor:
        """Return confidences (B, N, N) in [0, 1], rows before, columns after; 0 at padding."""


class LearnedMatcher(Matcher):
    """Matcher with weights, which also gives probabilities for a region to have no counterpart."""

    @abstractmethod
    def log_assignment(self, pairs: RegionPairs) -> Tensor:
        """Return (B, N + 1, N + 1) log-probabilities; the last row and column are dustbins, padding is −1e9."""

    def forward(self, pairs: RegionPairs) -> Tensor:
        """See `Matcher`; the probabilities of `log_assignment` without the dustbins."""
        return self.log_assignment(pairs)[:, :-1, :-1].exp()


class NearestMatcher(Matcher):
    """Mutual nearest neighbours by cosine similarity: the ablation without SuperGlue (row (a) of Table 4)."""

    def forward(self, pairs: RegionPairs) -> Tensor:
        """Return (B, N, N): the cosine similarity of mutual nearest neighbours where it is positive, else 0.

        Of equally similar regions the first is the nearest.
        """
        before, after = F.normalize(pairs.descriptors, dim=-1).unbind(1)
        cosine = (before @ after.transpose(1, 2)).masked_fill(~pairs.both_valid, -torch.inf)
        row_best = F.one_hot(cosine.argmax(2), cosine.shape[2]).bool()
        column_best = F.one_hot(cosine.argmax(1), cosine.shape[1]).bool().transpose(1, 2)
        return torch.where(row_best & column_best & pairs.both_valid, cosine, 0.0).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Assignment:
    """Matched and unmatched regions of a pair.

    Attributes:
        matched: (K, 2) int32, region before and region after of each match, sorted by the former.
        confidence: (K) float32, of each match.
        unmatched_before: U1, int32, sorted: regions that disappeared.
        unmatched_after: U2, int32, sorted: regions that appeared.
    """

    matched: NDArray[np.int32]
    confidence: NDArray[np.float32]
    unmatched_before: NDArray[np.int32]
    unmatched_after: NDArray[np.int32]


def assign(confidences: NDArray[np.floating], settings: AssignmentSettings) -> Assignment:
    """Threshold confidences into matches and unmatched regions, equation (10).

    A match is an entry above τ that is the largest of its row and of its column; of equally large ones the first. By
    the paper's rule, a region with an entry above τ that is no match is neither matched nor unmatched.

    Args:
        confidences: (N1, N2), the matrix of equation (9); either side may be empty.
        settings: τ, and which regions count as unmatched.
    """
    table = np.asarray(confidences, dtype=np.float32)
    above = table > settings.threshold
    rows, columns = (np.arange(length) for length in table.shape)
    if table.size:
        best = table.argmax(1)
        mutual = (table.argmax(0)[best] == rows) & above[rows, best]
        matched = np.stack([rows[mutual], best[mutual]], axis=1)
    else:
        matched = np.zeros((0, 2), dtype=np.int64)
    if settings.unmatched == "paper":
        unmatched = [np.flatnonzero(~above.any(axis)) for axis in (1, 0)]
    else:
        unmatched = [np.setdiff1d(rows, matched[:, 0]), np.setdiff1d(columns, matched[:, 1])]
    return Assignment(
        matched=matched.astype(np.int32),
        confidence=table[matched[:, 0], matched[:, 1]],
        unmatched_before=unmatched[0].astype(np.int32),
        unmatched_after=unmatched[1].astype(np.int32),
    )
