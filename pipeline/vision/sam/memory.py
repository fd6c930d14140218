"""Going on with less at once when the GPU's memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from pipeline.execution.progress import say

_T = TypeVar("_T")


class Portion:
    """How much is done at once; halves when memory runs out, for good.

    Attributes:
        size: The present number.

    Args:
        size: The number to begin with.
        what: Of what, for people: "images per pass".
    """

    def __init__(self, size: int, what: str) -> None:
        self.size = size
        self._what = what

    def run(self, work: Callable[[int], _T]) -> _T:
        """Return `work(size)`, with ever smaller sizes while it runs out of memory.

        Raises:
            torch.OutOfMemoryError: Not even a size of 1 fits.
        """
        while True:
            try:
                return work(self.size)
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
            # Only here have the failed attempt's tensors been let go of.
            self.size //= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            say(f"the GPU's memory ran out: going on with {self.size:,} {self._what}")
