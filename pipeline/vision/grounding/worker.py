"""The worker that fills semantics.h5.

A semantic map of an image from its regions.

The linear map that brings RoI descriptors into the space of the text; see `similarity`.
"""

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

from pipeline.cache.reader import Cache
from pipeline.datasets.images import read_unchanged
from pipeline.errors import DataError
from pipeline.execution.engines import fixed_arithmetic
from pipeline.progress import say
from pipeline.runtime import resolve_device
from pipeline.vision.adaptive_batch import AdaptiveBatch
from pipeline.vision.grounding.detector import Detector, apply_map, centred, fit_map, similarity, top_regions
from pipeline.vision.grounding.settings import SemanticRegionSettings
from pipeline.vision.masks import encode_rle
from pipeline.vision.regions.descriptor import build_head, region_descriptors
from pipeline.vision.sam.boxes import BoxMasks, box_portion, masks_from_boxes
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.vision.sam.decoder import PromptDecoder
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.model import build_sam
from pipeline.weights import load_tensors, save_tensors


def paint(
    masks: NDArray[np.bool_], categories: NDArray[np.integer], scores: NDArray[np.floating]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Give every pixel the category of the best-scoring mask that covers it, the earlier one of equals.

    Args:
        masks: (J, H, W).
        categories: (J), below 255.
        scores: (J) in [0, 1].

    Returns:
        Category + 1 per pixel, 0 for none, and score × 255 rounded, 0 for none; both uint8 (H, W).
    """
    labels = np.zeros(masks.shape[1:], dtype=np.uint8)
    marks = np.zeros(masks.shape[1:], dtype=np.uint8)
    for row in np.argsort(-scores, kind="stable")[::-1]:
        labels[masks[row]] = categories[row] + 1
        marks[masks[row]] = round(float(scores[row]) * 255)
    return labels, marks


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
    """Computes semantic regions and maps; see `pipeline.execution.compute.Worker`.

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

        self.batch_size = batch_size
        self._settings = settings
        self._device = resolve_device(device)
        self.detector = Detector(settings.grounding, self._device, batch_size)
        sam = build_sam(settings.sam)
        self._encoder = ImageEncoder(sam, settings.sam, self._device)
        self._decoder = PromptDecoder(sam, self._device)
        self._encoding = AdaptiveBatch(batch_size, "images per pass of SAM's encoder", "lower semantics.sam.encoder_size")
        self._boxes = box_portion()
        self._portion = AdaptiveBatch(
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
        counts = [encode_rle(mask) for mask in region.masks.bitmaps]
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
