"""A GPU whose memory runs out is told as such: it is no fault of the item that was at work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ResourceError


@contextmanager
def shortage_told(doing: str, fix: str) -> Iterator[None]:
    """Turn PyTorch's error that the GPU's memory ran out within the block into the project's.

    Args:
        doing: What is done in the block, for people: "loading the model".
        fix: What to do.

    Raises:
        ResourceError: The memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        # Where PyTorch is not loaded, nothing on a GPU has failed; stages that do without it never load it here.
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        raise ResourceError(f"the GPU's memory ran out while {doing}", where="engine.device", fix=fix) from error
