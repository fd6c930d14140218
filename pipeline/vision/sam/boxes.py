"""Masks from boxes: SAM's box prompts, batched over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.vision.adaptive_batch import EVERYTHING, AdaptiveBatch, padded_chunks
from pipeline.vision.sam.amg import MASK_THRESHOLD, upsample
from pipeline.vision.sam.decoder import ImageTokens, PromptDecoder
from pipeline.vision.sam.encoder import input_size

_FIRST = slice(0, 1)
"""The mask that the decoder gives for unambiguous prompts."""
_PIXELS = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Pixels of masks that are drawn at once."""


@dataclass(frozen=True)
class BoxMasks:
    """The masks of one image's boxes.

    Attributes:
        bitmaps: bool (N, H, W).
        predicted_iou: float32 (N): the model's own estimate of each mask's quality.
    """

    bitmaps: NDArray[np.bool_]
    predicted_iou: NDArray[np.float32]


@torch.inference_mode()
def masks_from_boxes(
    decoder: PromptDecoder,
    embeddings: Tensor,
    boxes: Sequence[NDArray[np.floating]],
    sizes: Sequence[tuple[int, int]],
    *,
    boxes_per_pass: int = 16,
    batch_size: AdaptiveBatch | None = None,
) -> list[BoxMasks]:
    """Turn boxes into masks, one each.

    Equal to `SamPredictor.predict_torch` with `boxes` and `multimask_output=False`, whatever other images or boxes come
    along: every pass has the same shape.

    Args:
        decoder: Of the model that made the embeddings.
        embeddings: (V, C, h, w): of `ImageEncoder.encode`.
        boxes: For each image (N, 4): left, top, right, bottom in its pixels; N may be 0.
        sizes: Height and width of each image in pixels.
        boxes_per_pass: Boxes of each image that go through the decoder at once.
        batch_size: Boxes of all images that do; of `box_batch_size`, reused from call to call so that it is halved only
            once. None: a new one.

    Raises:
        ResourceError: Not even one box fits.
        ValueError: There are not as many sizes and lists of boxes as embeddings.
    """
    if not len(embeddings) == len(boxes) == len(sizes):
        raise ValueError(f"{len(embeddings)} embeddings, {len(boxes)} lists of boxes and {len(sizes)} sizes")
    predict = partial(_masks, decoder, embeddings, boxes, sizes, boxes_per_pass)
    return (batch_size or box_batch_size()).run(predict, count=max(1, len(boxes) * boxes_per_pass))


def box_batch_size() -> AdaptiveBatch:
    """Return the batch size that is halved when the boxes of a pass do not fit into memory."""
    return AdaptiveBatch(
        EVERYTHING, "boxes per pass of SAM's mask decoder", "lower the size of SAM's encoder or of the images"
    )


def _masks(
    decoder: PromptDecoder,
    embeddings: Tensor,
    boxes: Sequence[NDArray[np.floating]],
    sizes: Sequence[tuple[int, int]],
    boxes_per_pass: int,
    boxes_at_once: int,
) -> list[BoxMasks]:
    """Turn boxes into masks, `boxes_at_once` per pass: of fewer images where that leaves several of each."""
    each = min(boxes_per_pass, boxes_at_once)
    images_at_once = max(1, min(boxes_at_once // each, len(boxes)))
    results: list[list[BoxMasks]] = [[] for _ in sizes]
    for rows, real in padded_chunks(np.arange(len(boxes)), images_at_once):
        images = decoder.image_tokens(embeddings if images_at_once == len(boxes) else embeddings[rows])
        image_boxes, image_sizes = [boxes[row] for row in rows], [sizes[row] for row in rows]
        for start in range(0, max(map(len, image_boxes)), each):
            chunks = [chunk[start : start + each] for chunk in image_boxes]
            masks = _single_pass(decoder, images, chunks, image_sizes, each)
            for row, chunk_masks in zip(rows[:real], masks[:real], strict=True):
                results[row].append(chunk_masks)
    return [_concat(chunks, size) for chunks, size in zip(results, sizes, strict=True)]


def _single_pass(
    decoder: PromptDecoder,
    images: ImageTokens,
    boxes: Sequence[NDArray[np.floating]],
    sizes: Sequence[tuple[int, int]],
    each: int,
) -> list[BoxMasks]:
    """Turn at most `each` boxes of every image into masks."""
    side = decoder.encoder_size
    valid_sizes = [input_size(*size, side) for size in sizes]
    prompts = np.zeros((len(boxes), each, 4), dtype=np.float32)
    for row, image_boxes, (height, width), valid in zip(prompts, boxes, sizes, valid_sizes, strict=True):
        scale = np.tile([valid[1] / width, valid[0] / height], 2)
        row[: len(image_boxes)] = np.asarray(image_boxes, dtype=np.float64) * scale
    embedded = decoder.boxes(torch.from_numpy(prompts).flatten(0, 1)).unflatten(0, (len(boxes), each))
    decoded = decoder.decode(images, embedded)
    all_prompts = torch.arange(len(decoded.iou), device=decoder.device)
    logits = decoder.logits(decoded, all_prompts, _FIRST)[:, 0].unflatten(0, (len(boxes), each))
    iou = decoded.iou[:, 0].view(len(boxes), each).cpu().numpy()
    masks = []
    for image, (size, valid) in enumerate(zip(sizes, valid_sizes, strict=True)):
        count = len(boxes[image])
        masks_at_once = max(1, _PIXELS[decoder.device.type] // max(side**2, size[0] * size[1]))
        bitmaps = [
            (upsample(batch, encoder_size=side, valid_size=valid, original_size=size) > MASK_THRESHOLD).cpu().numpy()
            for batch in logits[image, :count].split(masks_at_once)
        ]
        masks.append(BoxMasks(np.concatenate(bitmaps), iou[image, :count]))
    return masks


def _concat(chunks: Sequence[BoxMasks], size: tuple[int, int]) -> BoxMasks:
    """Concatenate the masks of one image of the given size, of none too."""
    empty = BoxMasks(np.zeros((0, *size), dtype=np.bool_), np.zeros(0, dtype=np.float32))
    chunks = [empty, *chunks]
    return BoxMasks(
        np.concatenate([chunk.bitmaps for chunk in chunks]), np.concatenate([chunk.predicted_iou for chunk in chunks])
    )
