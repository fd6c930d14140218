"""Drawing splits for pairs that come without any."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.datasets.records import Split
from pipeline.files import sha256_bytes


def draw_splits(names: Iterable[str], val_share: float, test_share: float, seed: int) -> dict[str, Split]:
    """Give each pair a split, at random but by name: a pair added later moves few of the others.

    Args:
        names: Ids of the pairs, in any order.
        val_share: Share in the validation split, rounded to whole pairs.
        test_share: Share in the test split, rounded to whole pairs; at least one pair is left for training.
        seed: Same seed and same names, same splits.

    Returns:
        Split of each name.
    """
    order = sorted(set(names), key=lambda name: sha256_bytes(f"{seed}:{name}".encode()))
    test = min(round(test_share * len(order)), max(len(order) - 1, 0))
    val = min(round(val_share * len(order)), max(len(order) - 1 - test, 0))
    return {
        name: "test" if place < test else "val" if place < test + val else "train" for place, name in enumerate(order)
    }
