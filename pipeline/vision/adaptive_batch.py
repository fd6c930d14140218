"""Batches that shrink when memory runs out, the GPU's or the machine's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ResourceError
from pipeline.execution.failures import ran_out
from pipeline.progress import say

EVERYTHING: Final = 1 << 62
"""Initial size of an `AdaptiveBatch` that is limited only by the number of items."""

_T = TypeVar("_T")
_Item = TypeVar("_Item")


class AdaptiveBatch:
    """A batch size that halves for good whenever memory runs out.

    Adaptive batches may be nested. The inner one halves first; where even one item does not fit, the outer one halves
    and the inner one returns to its earlier size, since the memory is then taken by what the outer one holds.

    Attributes:
        size: The present batch size.

    Args:
        size: The initial batch size.
        unit: What is counted, for messages: "images per pass".
        fix: What to do where not even one item fits, for the error.
    """

    def __init__(self, size: int, unit: str, fix: str) -> None:
        self.size = size
        self._unit = unit
        self._fix = fix

    def run(self, function: Callable[[int], _T], *, cost: int = 1, count: int = EVERYTHING) -> _T:
        """Return `function(number)`, with ever smaller numbers while it runs out of memory.

        Args:
            function: Takes the number of items to process at once, at least 1.
            cost: What one item takes of `size`, where that counts pixels and not items.
            count: How many items there are.

        Raises:
            ResourceError: Not even one item fits.
        """
        initial = self.size
        while True:
            number = max(1, min(self.size // cost, count))
            try:
                return function(number)
            except (RuntimeError, MemoryError, OSError, ResourceError) as error:
                memory = error.what.partition(" ran out")[0] if isinstance(error, ResourceError) else ran_out(error)
                if memory is None:
                    raise
                if number == 1:
                    self.size = initial
                    if isinstance(error, ResourceError):
                        raise
                    on_gpu = memory != "memory"
                    raise ResourceError(
                        f"{memory} ran out even with one at a time ({self._unit})",
                        where="engine.device" if on_gpu else None,
                        fix=f"{self._fix}; or set engine.device to cpu" if on_gpu else self._fix,
                    ) from error
            # Only outside the except clause are the failed attempt's tensors released.
            number //= 2
            self.size = number * cost
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            say(f"{memory} ran out: going on with {number:,} {self._unit}")

    def map(self, items: Sequence[_Item], function: Callable[[list[_Item]], Sequence[_T]]) -> list[_T]:
        """Apply `function` to all items, as many at a time as fit, and return one result per item.

        A short last batch is padded by repeating its last item, and the results of the repetitions are dropped: batches
        of one shape run the same kernels.

        Raises:
            ResourceError: Not even one item fits.
        """
        results: list[_T] = []
        while len(results) < len(items):
            results.extend(self.run(partial(_apply_padded, items[len(results) :], function), count=len(items)))
        return results


def _apply_padded(items: Sequence[_Item], function: Callable[[list[_Item]], Sequence[_T]], number: int) -> Sequence[_T]:
    batch = list(items[:number])
    return function(batch + batch[-1:] * (number - len(batch)))[: len(batch)]


def padded_chunks(indices: NDArray[np.int64], size: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield chunks of exactly `size` indices, the last padded with repetitions, each with the number of real ones."""
    for start in range(0, len(indices), size):
        chunk = indices[start : start + size]
        yield np.pad(chunk, (0, size - len(chunk)), mode="edge"), len(chunk)
