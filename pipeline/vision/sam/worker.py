"""The worker that computes masks.h5: from images to their masks and, if stored, embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.images import read_unchanged
from pipeline.runtime import resolve_device
from pipeline.vision.sam.encoder import resize
from pipeline.vision.sam.generator import MaskGenerator
from pipeline.vision.sam.model import build_sam
from pipeline.vision.sam.settings import GeneratorSettings, Precision, SamSettings


@dataclass(frozen=True)
class MaskImage:
    """An image to compute masks of: its file, and the checksum that `prepare` recorded."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class LoadedImage:
    """An image in its own size (H, W, 3), and resized for the encoder."""

    pixels: NDArray[np.uint8]
    resized: NDArray[np.uint8]


class MaskWorker:
    """Computes masks; see `pipeline.execution.compute.Worker`.

    Args:
        sam: The model.
        generator: Points and thresholds.
        device: Where to compute.
        precision: fp32 or bf16.
        compiled: Whether the model goes through torch.compile.
        store_embeddings: Whether embeddings are among the results.

    Raises:
        CheckpointError: The weights are missing, damaged, or another variant's.
    """

    def __init__(
        self,
        sam: SamSettings,
        generator: GeneratorSettings,
        device: Literal["auto", "cpu", "cuda"],
        *,
        precision: Precision,
        compiled: bool,
        store_embeddings: bool,
    ) -> None:
        self._generator = MaskGenerator(
            build_sam(sam), sam, generator, resolve_device(device), precision=precision, compiled=compiled
        )
        self.batch_size = self._generator.images_per_batch
        self._store_embeddings = store_embeddings

    def load(self, image: MaskImage) -> LoadedImage:
        """Read one image.

        Raises:
            DataError: It cannot be read, or has changed since `prepare`.
        """
        pixels = read_unchanged(image.path, image.sha256)
        return LoadedImage(pixels, resize(pixels, self._generator.encoder.size))

    def compute(self, images: Sequence[LoadedImage]) -> list[dict[str, NDArray[Any]]]:
        """Return the arrays of each image; see `pipeline.vision.sam.cache.SCHEMA`."""
        embeddings = self._generator.encode([image.resized for image in images])
        masks = self._generator.generate([image.pixels for image in images], embeddings)
        if self._store_embeddings:
            stored = embeddings.half().cpu().numpy()
        else:
            stored = np.zeros((len(images), 0, 0, 0), dtype=np.float16)
        return [
            {**mask_set.arrays(), "embedding": embedding} for mask_set, embedding in zip(masks, stored, strict=True)
        ]
