"""The worker that computes semantic regions and maps, and the linear map of the space `aligned`; see `detector`."""

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
from pipeline.execution.engines import deterministic_torch
from pipeline.progress import say
from pipeline.runtime import resolve_device
from pipeline.vision.adaptive_batch import AdaptiveBatch
from pipeline.vision.grounding.detector import (
    Detector,
    ImageDetections,
    apply_linear_map,
    centre_embeddings,
    cosine_similarity,
    fit_linear_map,
    select_top_regions,
)
from pipeline.vision.grounding.settings import SemanticRegionSettings
from pipeline.vision.masks import encode_rle
from pipeline.vision.regions.descriptor import build_head, region_descriptors
from pipeline.vision.sam.boxes import BoxMasks, box_batch_size, masks_from_boxes
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.vision.sam.decoder import PromptDecoder
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.model import build_sam
from pipeline.weights import load_tensors, save_tensors


@dataclass(frozen=True)
class SemanticImage:
    """An image to compute semantic regions of.

    Attributes:
        path: Its file.
        sha256: Hash of the file when `prepare` ran.
        map_shape: Height and width of its semantic map.
        unit: Its number in masks.h5.
    """

    path: Path
    sha256: str
    map_shape: tuple[int, int]
    unit: int


@dataclass(frozen=True)
class LoadedImage:
    """A decoded image.

    Attributes:
        pixels: RGB (H, W, 3) uint8.
        map_shape: Height and width of its semantic map.
        embedding: SAM's embedding (C, h, w) float16 from masks.h5; None: it is computed.
    """

    pixels: NDArray[np.uint8]
    map_shape: tuple[int, int]
    embedding: NDArray[np.float16] | None


@dataclass(frozen=True)
class ImageRegions:
    """The J semantic regions of one image.

    Attributes:
        detections: Boxes, scores and categories, best first, and their similarity to the prompts.
        masks: SAM's masks of the boxes.
        descriptors: (J, D) by RoIAlign.
    """

    detections: ImageDetections
    masks: BoxMasks
    descriptors: Tensor


def read_pixels(image: SemanticImage, map_size: int | None) -> NDArray[np.uint8]:
    """Read an image, RGB (H, W, 3).

    Args:
        image: Which one.
        map_size: Side that maps are resized to; None: they are as large as the image, and all images must be.

    Raises:
        DataError: It cannot be read, has changed since `prepare`, or has another size than the first image.
    """
    pixels = read_unchanged(image.path, image.sha256)
    if map_size is None and pixels.shape[:2] != image.map_shape:
        size, first_size = (f"{width}×{height}" for height, width in (pixels.shape[:2], image.map_shape))
        raise DataError(
            f"the image is {size} pixels, the first one {first_size}",
            where=image.path,
            fix="set semantics.map_size to the side that all maps are to be resized to",
        )
    return pixels


class SemanticWorker:
    """Computes semantic regions and maps; see `pipeline.execution.compute.Worker`.

    Args:
        settings: Everything but the batch size.
        batch_size: Images per batch; that of each model halves by itself when a GPU's memory runs out.
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
        self._images_per_encoding = AdaptiveBatch(
            batch_size, "images per pass of SAM's encoder", "lower models.sam.encoder_size"
        )
        self._boxes_per_decoding = box_batch_size()
        self._images_at_once = AdaptiveBatch(
            batch_size, "images at once", "make the images smaller, or lower semantics.grounding.max_boxes"
        )
        self._head = build_head(self._encoder.channels, settings.head).to(self._device)
        self._alignment = None if alignment is None else torch.from_numpy(alignment).to(self._device)
        self._text = centre_embeddings(self.detector.category_embeddings())
        self._stored = None if embeddings is None else Cache.open(embeddings, MASKS)

    def load(self, image: SemanticImage) -> LoadedImage:
        """Read one image, and its embedding where that is stored.

        Raises:
            DataError: It cannot be read, has changed since `prepare`, has another size than the first image, or has no
                entry in masks.h5.
        """
        pixels = read_pixels(image, self._settings.map_size)
        if self._stored is None:
            return LoadedImage(pixels, image.map_shape, None)
        if image.unit in self._stored.missing:
            raise DataError(
                "the masks of this image were skipped", where=image.path, fix="mend the image and run `sagecc masks`"
            )
        return LoadedImage(pixels, image.map_shape, self._stored.row("embedding", image.unit))

    @torch.inference_mode()
    def compute(self, loaded: Sequence[LoadedImage]) -> list[dict[str, NDArray[Any]]]:
        """Return the fields of semantics.h5 of each image."""
        return [
            self._fields(regions, image.pixels.shape[:2], image.map_shape)
            for regions, image in zip(self.regions(loaded), loaded, strict=True)
        ]

    @torch.inference_mode()
    def regions(self, loaded: Sequence[LoadedImage]) -> list[ImageRegions]:
        """Return the semantic regions of each image.

        Raises:
            ResourceError: Not even one image fits into the GPU's memory.
        """
        return self._images_at_once.map(loaded, self._regions)

    def _regions(self, loaded: Sequence[LoadedImage]) -> list[ImageRegions]:
        images = [image.pixels for image in loaded]
        detections = self.detector.detect(images)
        embeddings = self._embeddings(loaded)
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        boxes = [image.boxes for image in detections]
        masks = masks_from_boxes(
            self._decoder,
            embeddings,
            [image.cpu().numpy() for image in boxes],
            sizes,
            batch_size=self._boxes_per_decoding,
        )
        scales = [self._encoder.spatial_scale(*size) for size in sizes]
        bitmaps = [torch.from_numpy(image.bitmaps) for image in masks]
        descriptors = region_descriptors(
            embeddings, boxes, scales, sizes, self._head, self._settings.roi, masks=bitmaps
        ).split([len(image) for image in boxes])
        return [ImageRegions(*image) for image in zip(detections, masks, descriptors, strict=True)]

    def _embeddings(self, loaded: Sequence[LoadedImage]) -> Tensor:
        """Return the embeddings (B, C, h, w) float32, rounded to the precision in which they are stored."""
        if self._stored is None:
            encoded = self._images_per_encoding.map([image.pixels for image in loaded], self._encode)
            return torch.stack(encoded).half().float()
        stored = np.stack([image.embedding for image in loaded if image.embedding is not None])
        return torch.from_numpy(stored).to(self._device).float()

    def _encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        return list(self._encoder.encode(images))

    def _fields(
        self, regions: ImageRegions, size: tuple[int, ...], map_shape: tuple[int, int]
    ) -> dict[str, NDArray[Any]]:
        detections = regions.detections
        embeddings, similarity = detections.embeddings, detections.similarity
        if self._alignment is not None:
            embeddings = apply_linear_map(regions.descriptors, self._alignment)
            similarity = cosine_similarity(embeddings, self._text)
        selected = select_top_regions(
            similarity,
            detections.categories,
            self._settings.top_q,
            per_category=self._settings.select == "category",
        )
        categories, scores = detections.categories.cpu().numpy(), detections.scores.cpu().numpy()
        counts = [encode_rle(mask) for mask in regions.masks.bitmaps]
        category_map, score_map = paint_maps(regions.masks.bitmaps, categories, scores)
        return {
            "boxes": detections.boxes.cpu().numpy(),
            "scores": scores,
            "category": categories.astype(np.int32),
            "runs": np.array([len(count) for count in counts], dtype=np.int32),
            "counts": np.concatenate([np.zeros(0, dtype=np.uint32), *counts]),
            "embeddings": embeddings.half().cpu().numpy(),
            "descriptors": regions.descriptors.half().cpu().numpy(),
            "similarity": similarity.half().cpu().numpy(),
            "selected": selected.to(torch.uint8).cpu().numpy(),
            "map": _resized(category_map, map_shape),
            "map_score": _resized(score_map, map_shape),
            "size": np.array(size, dtype=np.int32),
        }


def paint_maps(
    masks: NDArray[np.bool_], categories: NDArray[np.integer], scores: NDArray[np.floating]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the category and the score of the best-scoring mask at every pixel, the earlier one of equals.

    Args:
        masks: (J, H, W).
        categories: (J), below 255.
        scores: (J) in [0, 1].

    Returns:
        Category + 1, 0 for none, and score × 255 rounded, 0 for none; both uint8 (H, W).
    """
    category_map = np.zeros(masks.shape[1:], dtype=np.uint8)
    score_map = np.zeros(masks.shape[1:], dtype=np.uint8)
    for row in np.argsort(-scores, kind="stable")[::-1]:
        category_map[masks[row]] = categories[row] + 1
        score_map[masks[row]] = round(float(scores[row]) * 255)
    return category_map, score_map


def _resized(pixels: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    if pixels.shape == shape:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((shape[1], shape[0]), Image.Resampling.NEAREST))


def evenly_spread(images: Sequence[SemanticImage], count: int) -> list[SemanticImage]:
    """Return at most `count` images, evenly spread over all, the first and the last among them."""
    if len(images) <= count:
        return list(images)
    return [images[row] for row in np.linspace(0, len(images) - 1, count).round().astype(int)]


def readable_images(images: Sequence[SemanticImage], map_size: int | None) -> list[SemanticImage]:
    """Return the images that can be read, and report the others.

    Args:
        images: Any number.
        map_size: See `read_pixels`.

    Raises:
        DataError: None can be read.
    """
    readable = []
    first_error: DataError | None = None
    for image in images:
        try:
            read_pixels(image, map_size)
        except DataError as error:
            advice = f"; {error.fix}" if error.fix else ""
            say(f"semantics: the map from descriptors to words is fitted without {image.path}: {error.what}{advice}")
            first_error = first_error or error
        else:
            readable.append(image)
    if first_error is not None and not readable:
        raise DataError(
            f"none of {len(images)} images can be read, so no map can be fitted: {first_error.what}",
            where=first_error.where,
            fix=f"{first_error.fix or 'mend the images'}; or set semantics.space to grounding",
        )
    return readable


def load_or_fit_alignment(
    settings: SemanticRegionSettings,
    batch_size: int,
    device: Literal["auto", "cpu", "cuda"],
    images: Sequence[SemanticImage],
    path: Path,
) -> NDArray[np.float32]:
    """Return the linear map of `aligned` from a file; if there is none, fit the map and write the file.

    Args:
        settings: Of the regions, and the fit's penalty.
        batch_size: Images per batch.
        device: Where to compute.
        images: Those to fit the map to.
        path: The file; its name identifies all that the map is made from.

    Returns:
        (D + 1, d).

    Raises:
        CheckpointError: The file at `path` is damaged, or weights are missing.
        DataError: An image cannot be read, or nothing is detected in any.
    """
    if path.is_file():
        stored: NDArray[np.float32] = load_tensors(path, fix="delete it")[0]["map"].numpy()
        return stored
    say(f"semantics: fitting the map from descriptors to words to {len(images)} images")
    with deterministic_torch() as apply:
        worker = SemanticWorker(settings, batch_size, device)
        apply()
        descriptors, categories = [], []
        for start in range(0, len(images), batch_size):
            loaded = [worker.load(image) for image in images[start : start + batch_size]]
            padded = [*loaded, *(loaded[-1:] * (batch_size - len(loaded)))]
            for regions in worker.regions(padded)[: len(loaded)]:
                descriptors.append(regions.descriptors)
                categories.append(regions.detections.categories)
        all_descriptors, all_categories = torch.cat(descriptors), torch.cat(categories)
        if not len(all_descriptors):
            raise DataError(
                f"nothing is found in any of {len(images)} images, so no map can be fitted",
                where="semantics.space",
                fix="lower semantics.grounding.box_threshold, or set semantics.space to grounding",
            )
        targets = centre_embeddings(worker.detector.category_embeddings())[all_categories]
        weights = fit_linear_map(all_descriptors, targets, settings.ridge)
    save_tensors(path, {"map": weights})
    return np.asarray(weights.cpu().numpy())
