"""From confidences to matches and unmatched regions (equation 10)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.vision.matching.settings import AssignmentSettings


@dataclass(frozen=True)
class Assignment:
    """What became of the regions of a pair.

    Attributes:
        matched: (K, 2) int32, row and column of the regions that match, rows rising.
        confidence: (K) float32, of each match.
        unmatched_before: U1, int32, rising: regions that have gone.
        unmatched_after: U2, int32, rising: regions that are new.
    """

    matched: NDArray[np.int32]
    confidence: NDArray[np.float32]
    unmatched_before: NDArray[np.int32]
    unmatched_after: NDArray[np.int32]


def assign(confidences: NDArray[np.floating], settings: AssignmentSettings) -> Assignment:
    """Decide on matches and unmatched regions.

    A match is an entry above τ that is the largest of its row and of its column; of equally large ones the first. What
    else is above τ makes a region neither matched nor, by the paper's rule, unmatched.

    Args:
        confidences: (N1, N2), the matrix of equation (9); either side may be empty.
        settings: τ, and which regions are unmatched.
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
