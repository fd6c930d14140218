from __future__ import annotations

import statistics

import pytest

from pipeline.evaluation.seeds import deviation_over_seeds, mean_over_seeds

RESULTS = [{"a": 1.0, "b": None}, {"a": 2.5, "b": 1.0}, {"a": 7.0, "b": 2.0}]


def test_mean_and_deviation() -> None:
    assert mean_over_seeds(RESULTS) == {"a": pytest.approx(3.5), "b": None}
    assert deviation_over_seeds(RESULTS) == {"a": pytest.approx(statistics.stdev([1, 2.5, 7])), "b": None}
    assert mean_over_seeds(RESULTS[:1]) == RESULTS[0]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="no seeds"):
        mean_over_seeds([])
    with pytest.raises(ValueError, match="different numbers"):
        mean_over_seeds([{"a": 1.0}, {"b": 1.0}])
    with pytest.raises(ValueError, match="two seeds"):
        deviation_over_seeds([{"a": 1.0}])
