"""What every matcher is: a batch of region pairs in, a confidence matrix per pair out (equation 9)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from pipeline.vision.matching.pairs import RegionPairs


class Matcher(nn.Module, ABC):
    """Says of every region before and every one after how sure it is that they are the same."""

    @abstractmethod
    def forward(self, pairs: RegionPairs) -> Tensor:
        """Return confidences (B, N, N) in [0, 1], rows before, columns after; 0 at padding."""


class LearnedMatcher(Matcher):
    """A matcher with weights, which also says how sure it is that a region has no counterpart."""

    @abstractmethod
    def log_assignment(self, pairs: RegionPairs) -> Tensor:
        """Return (B, N + 1, N + 1) log-probabilities, the last row and column being the dustbins; −1e9 at padding."""

    def forward(self, pairs: RegionPairs) -> Tensor:
        """See `Matcher`: the assignment's probabilities without the dustbins."""
        return self.log_assignment(pairs)[:, :-1, :-1].exp()
