"""Mean and deviation over models that differ in their seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Numbers = Mapping[str, float | None]
"""Numbers by name; None where one does not exist."""


def mean_over_seeds(results: Sequence[Numbers]) -> dict[str, float | None]:
    """Return the mean of each number over the seeds; None where any seed has none.

    Raises:
        ValueError: There are no seeds, or their names differ.
    """
    return _over_seeds(results, _mean)


def deviation_over_seeds(results: Sequence[Numbers]) -> dict[str, float | None]:
    """Return the sample standard deviation (divisor n - 1) of each number; None where any seed has none.

    Raises:
        ValueError: There are fewer than two seeds, or their names differ.
    """
    if len(results) < 2:
        raise ValueError("a deviation wants two seeds or more")
    return _over_seeds(results, _deviation)


def _over_seeds(results: Sequence[Numbers], combine: Callable[[Sequence[float]], float]) -> dict[str, float | None]:
    if not results:
        raise ValueError("there are no seeds")
    names = list(results[0])
    if any(list(result) != names for result in results):
        raise ValueError("the seeds have different numbers")
    combined: dict[str, float | None] = {}
    for name in names:
        values = [result[name] for result in results]
        known = [value for value in values if value is not None]
        combined[name] = combine(known) if len(known) == len(values) else None
    return combined


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    centre = _mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))
