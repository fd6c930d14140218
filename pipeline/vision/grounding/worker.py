"""The worker that fills semantics.h5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.cache import Cache
from pipeline.datasets.images import read_unchanged
from pipeline.errors import DataError
from pipeline.vision import rle
from pipeline.vision.grounding.detector import Detector
from pipeline.vision.grounding.semantic_map import paint
from pipeline.vision.grounding.semantic_settings import SemanticRegionSettings
from pipeline.vision.grounding.similarity import apply_map, centred, similarity, top_regions
from pipeline.vision.portions import Portion
from pipeline.vision.regions.descriptor import build_head, region_descriptors
from pipeline.vision.sam.boxes import BoxMasks, box_portion, masks_from_boxes
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.vision.sam.decoding import PromptDecoder
from pipeline.vision.sam.encoding import ImageEncoder
from pipeline.vision.sam.model import build_sam


@dataclass(frozen=True)
class SemanticImage:
    """One image to look at.

    Attributes:
        path: Its file.
        sha256: The content that `prepare` saw.
        size: Height and width of its map.
        unit: Its number in masks.h5.
    """

    path: Path
    sha256: str
    size: tuple[int, int]
    unit: int


def read_pixels(image: SemanticImage, map_size: int | None) -> NDArray[np.uint8]:
    """Read an image, RGB (H, W, 3).

    Args:
        image: Which one.
        map_size: Side that maps are resized to; None: they are as large as the image, and all images must be.

    Raises:
        DataError: It cannot be read, has changed since `prepare`, or has another size than the first image.
    """
    pixels = read_unchanged(image.path, image.sha256)
    if map_size is None and pixels.shape[:2] != image.size:
        here, first = (f"{width}×{height}" for height, width in (pixels.shape[:2], image.size))
        raise DataError(
            f"the image is {here} pixels, the first one {first}",
            where=image.path,
            fix="set semantics.map_size to the side that all maps are to be resized to",
        )
    return pixels


@dataclass(frozen=True)
class LoadedImage:
    """What the semantic regions of one image are computed from.

    Attributes:
        pixels: RGB (H, W, 3) uint8.
        size: Height and width of its map.
        embedding: SAM's embedding (C, h, w) float16, where masks.h5 is to give it.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    embedding: NDArray[np.float16] | None


@dataclass(frozen=True)
class Region:
    """The regions of one image before they are compared with the prompts.

    Attributes:
        boxes: (J, 4) left, top, right, bottom in pixels, best first.
        scores: (J).
        categories: (J) int64.
        masks: Of the boxes.
        queries: (J, d) embeddings by the detector.
        similarity: (J, K) by the detector.
        descriptors: (J, D) by RoIAlign.
    """

    boxes: Tensor
    scores: Tensor
    categories: Tensor
    masks: BoxMasks
    queries: Tensor
    similarity: Tensor
    descriptors: Tensor


class SemanticWorker:
    """Computes semantic regions and maps; see `pipeline.execution.Worker`.

    Args:
        settings: Everything but the batch.
        batch_size: Images per pass; of each model by itself, it halves when a GPU's memory runs out.
        device: Where to compute.
        alignment: The linear map of the space `aligned`, (D + 1, d).
        embeddings: masks.h5 that holds the embeddings by the SAM of `settings`; None: images are encoded here.
    """

    def __init__(
        self,
        settings: SemanticRegionSettings,
        batch_size: int,
        device: Literal["auto", "cpu", "cuda"],
        alignment: NDArray[np.float32] | None = None,
        embeddings: Path | None = None,
    ) -> None:
        from pipeline.devices import resolve_device

        self.batch_size = batch_size
        self._settings = settings
        self._device = resolve_device(device)
        self.detector = Detector(settings.grounding, self._device, batch_size)
        sam = build_sam(settings.sam)
        self._encoder = ImageEncoder(sam, settings.sam, self._device)
        self._decoder = PromptDecoder(sam, self._device)
        self._encoding = Portion(batch_size, "images per pass of SAM's encoder", "lower semantics.sam.encoder_size")
        self._boxes = box_portion()
        self._portion = Portion(
            batch_size, "images at once", "make the images smaller, or lower semantics.grounding.boxes"
        )
        self._head = build_head(self._encoder.channels, settings.head).to(self._device)
        self._alignment = None if alignment is None else torch.from_numpy(alignment).to(self._device)
        self._text = centred(self.detector.category_embeddings())
        self._stored = None if embeddings is None else Cache.open(embeddings, MASKS)

    def load(self, image: SemanticImage) -> LoadedImage:
        """Read one image, and its embedding where that is stored.

        Raises:
            DataError: It cannot be read, has changed since `prepare`, has another size than the first image, or has no
                entry in masks.h5.
        """
        pixels = read_pixels(image, self._settings.map_size)
        if self._stored is None:
            return LoadedImage(pixels, image.size, None)
        if image.unit in self._stored.missing:
            raise DataError(
                "the masks of this image were skipped", where=image.path, fix="mend the image and run `sagecc masks`"
            )
        return LoadedImage(pixels, image.size, self._stored.row("embedding", image.unit))

    @torch.inference_mode()
    def regions(self, loaded: Sequence[LoadedImage]) -> list[Region]:
        """Detect, segment and describe.

        Raises:
            ResourceError: Not even one image fits into the GPU's memory.
        """
        return self._portion.map(loaded, self._regions)

    def _regions(self, loaded: Sequence[LoadedImage]) -> list[Region]:
        images = [image.pixels for image in loaded]
        answers = self.detector.detect(images)
        embeddings = self._embeddings(loaded)
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        boxes = [answer.found.boxes for answer in answers]
        masks = masks_from_boxes(
            self._decoder, embeddings, [box.cpu().numpy() for box in boxes], sizes, portion=self._boxes
        )
        scales = [self._encoder.spatial_scale(*size) for size in sizes]
        bitmaps = [torch.from_numpy(mask.bitmaps) for mask in masks]
        descriptors = region_descriptors(
            embeddings, boxes, scales, sizes, self._head, self._settings.roi, masks=bitmaps
        ).split([len(box) for box in boxes])
        return [
            Region(
                answer.found.boxes,
                answer.found.scores,
                answer.found.categories,
                mask,
                answer.embeddings,
                answer.similarity,
                mine,
            )
            for answer, mask, mine in zip(answers, masks, descriptors, strict=True)
        ]

    @torch.inference_mode()
    def compute(self, loaded: Sequence[LoadedImage]) -> list[dict[str, NDArray[Any]]]:
        """Return the fields of semantics.h5 of each image."""
        return [
            self._fields(region, image.pixels.shape[:2], image.size)
            for region, image in zip(self.regions(loaded), loaded, strict=True)
        ]

    def _embeddings(self, loaded: Sequence[LoadedImage]) -> Tensor:
        """Return the embeddings (B, C, h, w) float32, rounded to the precision in which they are stored."""
        if self._stored is None:
            rows = self._encoding.map([image.pixels for image in loaded], self._encode)
            return torch.stack(rows).half().float()
        stored = np.stack([image.embedding for image in loaded if image.embedding is not None])
        return torch.from_numpy(stored).to(self._device).float()

    def _encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        return list(self._encoder.encode(images))

    def _fields(self, region: Region, shape: tuple[int, ...], map_size: tuple[int, int]) -> dict[str, NDArray[Any]]:
        embeddings, similarities = region.queries, region.similarity
        if self._alignment is not None:
            embeddings = apply_map(region.descriptors, self._alignment)
            similarities = similarity(embeddings, self._text)
        each = self._settings.select == "category"
        selected = top_regions(similarities, region.categories, self._settings.q, each=each)
        categories, scores = region.categories.cpu().numpy(), region.scores.cpu().numpy()
        counts = [rle.encode(mask) for mask in region.masks.bitmaps]
        labels, marks = paint(region.masks.bitmaps, categories, scores)
        return {
            "boxes": region.boxes.cpu().numpy(),
            "scores": scores,
            "category": categories.astype(np.int32),
            "runs": np.array([len(count) for count in counts], dtype=np.int32),
            "counts": np.concatenate([np.zeros(0, dtype=np.uint32), *counts]),
            "embeddings": embeddings.half().cpu().numpy(),
            "descriptors": region.descriptors.half().cpu().numpy(),
            "similarity": similarities.half().cpu().numpy(),
            "selected": selected.to(torch.uint8).cpu().numpy(),
            "map": _resized(labels, map_size),
            "map_score": _resized(marks, map_size),
            "size": np.array(shape, dtype=np.int32),
        }


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if pixels.shape == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.NEAREST))
