from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from benchmarks import cache_reads
from benchmarks.harness import missed


def test_all_sides_are_measured() -> None:
    figures = cache_reads.measure(images=40, batches=4, rounds=1)
    assert all(value > 0 for value in figures.values())
    assert not set(cache_reads.BARS) - set(figures)
    assert "vs_group_per_image" not in missed(figures, {"vs_group_per_image": 2.0})


def test_sides_must_read_the_same() -> None:
    content = cache_reads._Images(5, seed=0)
    right = partial(cache_reads._sliced, content.flat, content.offsets)
    wrong = partial(cache_reads._sliced, content.flat + 1, content.offsets)
    cache_reads._check_equal({"ram": right, "cache": right}, np.array([3, 1]))
    with pytest.raises(ValueError, match="side cache"):
        cache_reads._check_equal({"ram": right, "cache": wrong}, np.array([3, 1]))
