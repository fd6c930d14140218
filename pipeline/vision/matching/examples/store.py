"""All examples of a data set, computed once in pieces that survive an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.errors import DataError
from pipeline.vision.matching.examples.making import MaskedImage, make_example
from pipeline.vision.matching.examples.pieces import in_pieces
from pipeline.vision.matching.examples.settings import ExampleSettings
from pipeline.vision.matching.examples.tensors import Describer, Example, Examples

_IMAGES_PER_FILE = 32
_TRIES = 20
"""How many other images are looked at for one of the right size to paint from."""


class MaskedImages(Protocol):
    """Images with their masks, by number."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, number: int) -> MaskedImage:
        """Return one; IndexError beyond the last."""


def compute_examples(
    images: MaskedImages,
    numbers: Sequence[int],
    describer: Describer,
    settings: ExampleSettings,
    length: int,
    *,
    seed: int,
    folder: Path,
    title: str,
) -> Examples:
    """Make `settings.per_image` examples of each of some images, or read what `folder` holds of them.

    Every example is drawn from `seed`, its image's number and its own, so an interruption changes nothing.

    Args:
        images: Where images come from.
        numbers: Which of them; regions that are painted in come from these too.
        describer: Computes descriptors.
        settings: How examples are made.
        length: Regions that every view is padded to.
        seed: See above.
        folder: Where the pieces lie; it must belong to exactly these arguments.
        title: What the progress bar is called.

    Raises:
        DataError: No image holds a region.
        CheckpointError: A piece is damaged.
    """
    cached = lru_cache(maxsize=256)(images.__getitem__)

    def make(number: int) -> Iterator[Example]:
        source = cached(number)
        another = _Painter(cached, numbers, source)
        for index in range(settings.per_image):
            rng = np.random.default_rng([seed, number, index])
            yield make_example(source, another, settings, length, rng)

    examples = in_pieces(numbers, make, describer, length, size=_IMAGES_PER_FILE, folder=folder, title=title)
    if not bool(examples.pairs.valid.any()):
        raise DataError("no image of the data set holds a region", fix="look at masks.h5 with `sagecc inspect`")
    return examples


class _Painter:
    """Draws images as large as one that regions are painted into."""

    def __init__(self, images: Callable[[int], MaskedImage], numbers: Sequence[int], like: MaskedImage) -> None:
        self._images, self._numbers, self._like = images, numbers, like

    def __call__(self, rng: np.random.Generator) -> MaskedImage:
        for _ in range(_TRIES):
            found = self._images(self._numbers[int(rng.integers(len(self._numbers)))])
            if found.image.shape == self._like.image.shape:
                return found
        return self._like
