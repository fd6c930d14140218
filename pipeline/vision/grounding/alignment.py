"""The linear map that brings RoI descriptors into the space of the text; see `similarity`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.execution import say
from pipeline.execution.arithmetic import fixed_arithmetic
from pipeline.training.tensors import load_tensors, save_tensors
from pipeline.vision.grounding.semantic_settings import SemanticRegionSettings
from pipeline.vision.grounding.similarity import centred, fit_map
from pipeline.vision.grounding.worker import SemanticImage, SemanticWorker, read_pixels


def evenly_spread(images: Sequence[SemanticImage], count: int) -> list[SemanticImage]:
    """Return at most `count` images, evenly spread over all, the first and the last among them."""
    if len(images) <= count:
        return list(images)
    return [images[place] for place in np.linspace(0, len(images) - 1, count).round().astype(int)]


def readable(images: Sequence[SemanticImage], map_size: int | None) -> list[SemanticImage]:
    """Return the images that can be read, and say which cannot.

    Args:
        images: Any number.
        map_size: See `read_pixels`.

    Raises:
        DataError: None can be read.
    """
    good = []
    for image in images:
        try:
            read_pixels(image, map_size)
        except DataError as error:
            say(f"semantics: the map from descriptors to words is fitted without {image.path}: {error.what}")
        else:
            good.append(image)
    if not good:
        raise DataError(
            f"none of {len(images)} images can be read, so no map can be fitted",
            where="semantics.space",
            fix="mend the images, or set semantics.space to grounding",
        )
    return good


def alignment(
    settings: SemanticRegionSettings,
    batch_size: int,
    device: Literal["auto", "cpu", "cuda"],
    images: Sequence[SemanticImage],
    path: Path,
) -> NDArray[np.float32]:
    """Return the map, from `path` if it is there, otherwise fitted and kept there.

    Args:
        settings: Of the regions, and the fit's penalty.
        batch_size: Images per pass.
        device: Where to compute.
        images: What it is fitted to.
        path: Where it is kept; the name says what it is made from.

    Returns:
        (D + 1, d).

    Raises:
        CheckpointError: The file at `path` is damaged, or weights are missing.
        DataError: An image cannot be read, or nothing is found in any.
    """
    if path.is_file():
        fitted: NDArray[np.float32] = load_tensors(path, fix="delete it")[0]["map"].numpy()
        return fitted
    say(f"semantics: fitting the map from descriptors to words to {len(images)} images")
    with fixed_arithmetic() as settle:
        worker = SemanticWorker(settings, batch_size, device)
        settle()
        descriptors, categories = [], []
        for start in range(0, len(images), batch_size):
            loaded = [worker.load(image) for image in images[start : start + batch_size]]
            filled = [*loaded, *(loaded[-1:] * (batch_size - len(loaded)))]
            for region in worker.regions(filled)[: len(loaded)]:
                descriptors.append(region.descriptors)
                categories.append(region.categories)
        rows, labels = torch.cat(descriptors), torch.cat(categories)
        if not len(rows):
            raise DataError(
                f"nothing is found in any of {len(images)} images, so no map can be fitted",
                where="semantics.space",
                fix="lower semantics.grounding.box_threshold, or set semantics.space to grounding",
            )
        targets = centred(worker.detector.category_embeddings())[labels]
        weights = fit_map(rows, targets, settings.ridge)
    save_tensors(path, {"map": weights})
    return np.asarray(weights.cpu().numpy())
