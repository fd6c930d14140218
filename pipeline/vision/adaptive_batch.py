"""Going on with less at once when the GPU's memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ResourceError
from pipeline.progress import say

EVERYTHING: Final = 1 << 62
"""A size for `Portion` to begin with that means: as many as there are."""

_T = TypeVar("_T")
_Item = TypeVar("_Item")


class Portion:
    """How much is done at once; halves when memory runs out, for good.

    Portions may hold each other: the inner one halves first, and where even one does not fit, the outer one halves and
    the inner one begins anew, since what takes the room then lies outside of it.

    Attributes:
        size: The present number.

    Args:
        size: The number to begin with.
        what: Of what, for people: "images per pass".
        fix: What to do where not even one fits.
    """

    def __init__(self, size: int, what: str, fix: str) -> None:
        self.size = size
        self._what = what
        self._fix = fix

    def run(self, work: Callable[[int], _T], *, each: int = 1, most: int = EVERYTHING) -> _T:
        """Return `work(number)`, with ever smaller numbers while it runs out of memory.

        Args:
            work: Is given the number of things to do at once, at least 1.
            each: What one thing takes of `size`, where that is not a number of things but of pixels.
            most: How many things there are.

        Raises:
            ResourceError: Not even one fits.
        """
        began = self.size
        while True:
            number = max(1, min(self.size // each, most))
            try:
                return work(number)
            except (torch.OutOfMemoryError, ResourceError) as error:
                if number == 1:
                    self.size = began
                    if isinstance(error, ResourceError):
                        raise
                    raise ResourceError(
                        f"the GPU's memory ran out even with one at a time ({self._what})",
                        where="engine.device",
                        fix=f"{self._fix}; or set engine.device to cpu",
                    ) from error
            # Only here have the failed attempt's tensors been let go of.
            number //= 2
            self.size = number * each
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            say(f"the GPU's memory ran out: going on with {number:,} {self._what}")

    def map(self, items: Sequence[_Item], work: Callable[[list[_Item]], Sequence[_T]]) -> list[_T]:
        """Apply `work` to all items, as many at a time as fit, and return what comes of each.

        Where not all go at once, a short portion is filled up by repeating its last item, and what comes of the
        repetitions is dropped: passes of one shape take the same kernels.

        Raises:
            ResourceError: Not even one item fits.
        """
        done: list[_T] = []
        while len(done) < len(items):
            done.extend(self.run(partial(_first, items[len(done) :], work), most=len(items)))
        return done


def _first(items: Sequence[_Item], work: Callable[[list[_Item]], Sequence[_T]], number: int) -> Sequence[_T]:
    part = list(items[:number])
    return work(part + part[-1:] * (number - len(part)))[: len(part)]


def filled(numbers: NDArray[np.int64], size: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Part numbers into portions of exactly `size`, the last filled up by repetitions; with how many are none."""
    for start in range(0, len(numbers), size):
        part = numbers[start : start + size]
        yield np.pad(part, (0, size - len(part)), mode="edge"), len(part)
