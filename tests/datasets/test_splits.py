from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.splits import draw_splits

NAMES = [f"place_{number}" for number in range(100)]


def test_shares_and_seed() -> None:
    splits = draw_splits(NAMES, 0.1, 0.2, seed=0)
    assert Counter(splits.values()) == {"train": 70, "val": 10, "test": 20}
    assert draw_splits(NAMES[::-1], 0.1, 0.2, seed=0) == splits
    assert draw_splits(NAMES, 0.1, 0.2, seed=1) != splits


def test_a_new_pair_moves_few_others() -> None:
    before, after = draw_splits(NAMES, 0.1, 0.2, seed=0), draw_splits([*NAMES, "new"], 0.1, 0.2, seed=0)
    assert sum(before[name] != after[name] for name in NAMES) <= 2


@given(st.sets(st.text(max_size=5), max_size=12), st.floats(0, 0.5), st.floats(0, 0.49))
def test_every_pair_has_a_split_and_training_is_never_empty(names: set[str], val: float, test: float) -> None:
    splits = draw_splits(names, val, test, seed=3)
    assert splits.keys() == names
    assert not names or "train" in splits.values()
