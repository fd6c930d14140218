"""Examples that are computed once, in pieces that survive an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.execution.progress import track
from pipeline.training.tensors import load_tensors, save_tensors
from pipeline.vision.matching.examples.tensors import Describer, Example, Examples, to_examples

T = TypeVar("T")


def in_pieces(
    sources: Sequence[T],
    make: Callable[[T], Iterable[Example]],
    describer: Describer,
    length: int,
    *,
    size: int,
    folder: Path,
    title: str,
) -> Examples:
    """Make the examples of all sources, or read what `folder` holds of them.

    Args:
        sources: What examples are made of.
        make: Makes those of one source.
        describer: Computes descriptors.
        length: Regions that every view is padded to.
        size: Sources per piece.
        folder: Where the pieces lie; it must belong to exactly these arguments.
        title: What the progress bar is called.

    Raises:
        CheckpointError: A piece is damaged.
    """
    parts = []
    with track(title, len(sources)) as bar:
        for first in range(0, len(sources), size):
            chosen = sources[first : first + size]
            path = folder / f"{first:06d}.safetensors"
            if not path.is_file():
                made = [example for source in chosen for example in make(source)]
                save_tensors(path, to_examples(made, describer, length).tensors())
            parts.append(load_tensors(path, fix=f"delete {path}")[0])
            bar.advance(len(chosen))
    return Examples.from_tensors(parts)
