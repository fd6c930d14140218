"""The parts of a split that are scored apart: changed pairs, unchanged pairs, all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, get_args

from pipeline.datasets.records import Pair

Subset = Literal["changed", "unchanged", "all"]
SUBSETS: Final[tuple[Subset, ...]] = get_args(Subset)
"""Changed pairs come first: they are where captioners differ."""


def split_by_change(pairs: Sequence[Pair]) -> dict[Subset, tuple[Pair, ...]]:
    """Return the pairs of each subset, in their order; pairs without a change flag are in `all` alone."""
    return {
        "changed": tuple(pair for pair in pairs if pair.changed is True),
        "unchanged": tuple(pair for pair in pairs if pair.changed is False),
        "all": tuple(pairs),
    }
