"""The worker that fills regions.h5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache import Cache
from pipeline.datasets.images import read_unchanged
from pipeline.errors import DataError
from pipeline.vision.portions import Portion
from pipeline.vision.regions.descriptor import build_head, describe
from pipeline.vision.regions.roi import region_grids
from pipeline.vision.regions.settings import RegionSettings
from pipeline.vision.regions.source import MaskSource
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.vision.sam.cache import MaskSet, read_masks
from pipeline.vision.sam.encoding import ImageEncoder
from pipeline.vision.sam.model import build_sam


@dataclass(frozen=True)
class RegionImage:
    """One image to compute regions of: its file, the content that `prepare` saw, and its unit in masks.h5."""

    path: Path
    sha256: str
    unit: int


@dataclass(frozen=True)
class LoadedImage:
    """What the regions of one image are computed from.

    Attributes:
        masks: Its masks.
        embedding: SAM's embedding (C, h, w) float16, where masks.h5 holds it.
        pixels: RGB (H, W, 3), where it does not.
        bitmaps: The masks (N, H, W), where they weight the bins.
    """

    masks: MaskSet
    embedding: NDArray[np.float16] | None
    pixels: NDArray[np.uint8] | None
    bitmaps: NDArray[np.bool_] | None


class RegionWorker:
    """Computes region features; see `pipeline.execution.Worker`.

    Args:
        settings: RoIAlign, head, what is kept.
        source: The masks; with embeddings in them, SAM is not loaded.
        batch_size: Images per pass, of SAM's encoder too; halves when a GPU's memory runs out.
        device: Where to compute.
    """

    def __init__(
        self,
        settings: RegionSettings,
        source: MaskSource,
        batch_size: int,
        device: Literal["auto", "cpu", "cuda"],
    ) -> None:
        from pipeline.devices import resolve_device

        self.batch_size = batch_size
        self._settings = settings
        self._source = source
        self._device = resolve_device(device)
        self._cache = Cache.open(source.path, MASKS)
        self._head = build_head(source.channels, settings.head).to(self._device)
        self._portion = Portion(batch_size, "images per pass", "make the images smaller, or lower masks.generator.keep")
        self._encoder: ImageEncoder | None = None
        if not source.stored:
            sam = build_sam(source.sam)
            self._encoder = ImageEncoder(sam, source.sam, self._device, precision=source.precision)

    def load(self, image: RegionImage) -> LoadedImage:
        """Read the masks of one image, and its embedding or its pixels.

        Raises:
            DataError: The image has no entry in masks.h5, cannot be read, or has changed since `prepare`.
        """
        if image.unit in self._cache.missing:
            raise DataError(
                "the masks of this image were skipped", where=image.path, fix="mend the image and run `sagecc masks`"
            )
        masks = read_masks(self._cache, image.unit)
        pixels = embedding = None
        if self._source.stored:
            embedding = self._cache.row("embedding", image.unit)
        else:
            pixels = read_unchanged(image.path, image.sha256)
        return LoadedImage(masks, embedding, pixels, masks.bitmaps() if self._settings.roi.mask_pooling else None)

    @torch.inference_mode()
    def compute(self, images: Sequence[LoadedImage]) -> list[dict[str, NDArray[Any]]]:
        """Return the fields of regions.h5 of each image.

        Raises:
            ResourceError: Not even one image fits into the GPU's memory.
        """
        return self._portion.map(images, self._described)

    def _described(self, images: Sequence[LoadedImage]) -> list[dict[str, NDArray[Any]]]:
        boxes = [torch.from_numpy(image.masks.boxes) for image in images]
        sizes = [image.masks.size for image in images]
        scales = [self._source.spatial / max(size) for size in sizes]
        masks = None
        if self._settings.roi.mask_pooling:
            masks = [torch.from_numpy(image.bitmaps) for image in images]
        grids = region_grids(self._embeddings(images), boxes, scales, sizes, self._settings.roi, masks=masks)
        counts = [len(image.masks) for image in images]
        vectors = _split(describe(self._head, grids), counts)
        kept = _split(grids if self._settings.store == "grids" else grids[:, :0], counts)
        return [
            {
                "descriptors": vector,
                "grids": grid,
                "boxes": image.masks.boxes,
                "centroids": image.masks.centroids,
                "areas": image.masks.areas,
                "scores": image.masks.predicted_iou,
                "size": np.array(image.masks.size, dtype=np.int32),
            }
            for image, vector, grid in zip(images, vectors, kept, strict=True)
        ]

    def _embeddings(self, images: Sequence[LoadedImage]) -> Tensor:
        """Return the embeddings (B, C, h, w), rounded to the precision in which they are stored."""
        if self._encoder is None:
            stored = np.stack([image.embedding for image in images if image.embedding is not None])
            return torch.from_numpy(stored).to(self._device)
        return self._encoder.encode([image.pixels for image in images if image.pixels is not None]).half()


def _split(rows: Tensor, counts: list[int]) -> list[NDArray[np.float16]]:
    return [part.numpy() for part in rows.half().cpu().split(counts)]
