"""Scene features: the schema of scenes.h5, and the worker that fills it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.cache.schema import Field, Schema
from pipeline.datasets.images import read_unchanged
from pipeline.errors import DataError
from pipeline.runtime import resolve_device
from pipeline.vision.scenes.backbones import build_backbone, normalise
from pipeline.vision.scenes.settings import BackboneSettings

SCHEMA = Schema(
    stage="scenes",
    version=1,
    unit="image",
    fields=(
        Field(
            "features",
            dtype="float16",
            shape=(-1, -1, -1),
            description="backbone feature map F of equation (1), before the positional embedding: "
            "channels, rows, columns",
        ),
    ),
)
"""Layout of scenes.h5."""


@dataclass(frozen=True)
class SceneImage:
    """One image to encode.

    Attributes:
        path: Its file.
        sha256: Hash of the file when `prepare` read it.
        size: Height and width in pixels of the data set's first image.
    """

    path: Path
    sha256: str
    size: tuple[int, int]


class SceneWorker:
    """Worker that computes backbone features; see `pipeline.execution.compute.Worker`.

    Args:
        settings: Backbone and normalisation.
        batch_size: Images per forward pass.
        device: Where to compute.
    """

    def __init__(self, settings: BackboneSettings, batch_size: int, device: Literal["auto", "cpu", "cuda"]) -> None:
        self.batch_size = batch_size
        self._settings = settings
        self._device = resolve_device(device)
        self._backbone = build_backbone(settings.backbone, Path(settings.weights)).to(self._device)

    def load(self, image: SceneImage) -> NDArray[np.uint8]:
        """Read one image as RGB (H, W, 3).

        Raises:
            DataError: It cannot be read, has changed since `prepare`, or has another size than the first image.
        """
        pixels = read_unchanged(image.path, image.sha256)
        if self._settings.size is None and pixels.shape[:2] != image.size:
            size, first = (f"{width}×{height}" for height, width in (pixels.shape[:2], image.size))
            raise DataError(
                f"the image is {size} pixels, the first one {first}",
                where=image.path,
                fix="set models.backbone.size to the side that all images are to be resized to",
            )
        return pixels

    @torch.inference_mode()
    def compute(self, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, NDArray[np.float16]]]:
        """Return `features` (C, h, w) float16 of each image."""
        if len({image.shape for image in images}) == 1:
            batch = normalise(torch.from_numpy(np.stack(images)).to(self._device).permute(0, 3, 1, 2), self._settings)
        else:
            singles = [torch.from_numpy(image).to(self._device).permute(2, 0, 1)[None] for image in images]
            batch = torch.cat([normalise(single, self._settings) for single in singles])
        features = self._backbone(batch).half().cpu().numpy()
        return [{"features": row} for row in features]
