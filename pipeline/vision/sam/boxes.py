"""Masks of objects that are known by their boxes: SAM's box prompts, batched over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.vision.adaptive_batch import EVERYTHING, AdaptiveBatch, padded_chunks
from pipeline.vision.sam.amg import THRESHOLD, upsample
from pipeline.vision.sam.decoder import ImageSide, PromptDecoder
from pipeline.vision.sam.encoder import input_size

_FIRST = slice(0, 1)
"""The mask that the decoder gives for prompts that mean one object."""
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
    portion: AdaptiveBatch | None = None,
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
        portion: Boxes of all images that do; what `box_portion` gives, kept from call to call so that it halves but
            once. None: a new one.

    Raises:
        ResourceError: Not even one box fits.
        ValueError: There are not as many sizes and lists of boxes as embeddings.
    """
    if not len(embeddings) == len(boxes) == len(sizes):
        raise ValueError(f"{len(embeddings)} embeddings, {len(boxes)} lists of boxes and {len(sizes)} sizes")
    found = partial(_masks, decoder, embeddings, boxes, sizes, boxes_per_pass)
    return (portion or box_portion()).run(found, count=max(1, len(boxes) * boxes_per_pass))


def box_portion() -> AdaptiveBatch:
    """Return what halves when the boxes of a pass do not fit into memory."""
    return AdaptiveBatch(
        EVERYTHING, "boxes per pass of SAM's mask decoder", "lower the size of SAM's encoder or of the images"
    )


def _masks(
    decoder: PromptDecoder,
    embeddings: Tensor,
    boxes: Sequence[NDArray[np.floating]],
    sizes: Sequence[tuple[int, int]],
    boxes_per_pass: int,
    at_once: int,
) -> list[BoxMasks]:
    """Turn boxes into masks, `at_once` boxes per pass: of fewer images where that leaves several of each."""
    each = min(boxes_per_pass, at_once)
    together = max(1, min(at_once // each, len(boxes)))
    found: list[list[BoxMasks]] = [[] for _ in sizes]
    for owners, real in padded_chunks(np.arange(len(boxes)), together):
        images = decoder.image_side(embeddings if together == len(boxes) else embeddings[owners])
        mine, shapes = [boxes[owner] for owner in owners], [sizes[owner] for owner in owners]
        for start in range(0, max(map(len, mine)), each):
            parts = _pass(decoder, images, [some[start : start + each] for some in mine], shapes, each)
            for owner, part in list(zip(owners, parts, strict=True))[:real]:
                found[owner].append(part)
    return [_joined(parts, size) for parts, size in zip(found, sizes, strict=True)]


def _pass(
    decoder: PromptDecoder,
    images: ImageSide,
    boxes: Sequence[NDArray[np.floating]],
    sizes: Sequence[tuple[int, int]],
    each: int,
) -> list[BoxMasks]:
    """Turn at most `each` boxes of every image into masks."""
    side = decoder.encoder_size
    shown = [input_size(*size, side) for size in sizes]
    prompts = np.zeros((len(boxes), each, 4), dtype=np.float32)
    for row, mine, size, inside in zip(prompts, boxes, sizes, shown, strict=True):
        row[: len(mine)] = np.asarray(mine, dtype=np.float64) * np.tile([inside[1] / size[1], inside[0] / size[0]], 2)
    sparse = decoder.boxes(torch.from_numpy(prompts).flatten(0, 1)).unflatten(0, (len(boxes), each))
    decoded = decoder.decode(images, sparse)
    everyone = torch.arange(len(decoded.iou), device=decoder.device)
    logits = decoder.logits(decoded, everyone, _FIRST)[:, 0].unflatten(0, (len(boxes), each))
    scores = decoded.iou[:, 0].view(len(boxes), each).cpu().numpy()
    masks = []
    for image, mine in enumerate(boxes):
        size = sizes[image]
        at_once = max(1, _PIXELS[decoder.device.type] // max(side**2, size[0] * size[1]))
        whole = [
            (upsample(part, encoder=side, shown=shown[image], original=size) > THRESHOLD).cpu().numpy()
            for part in logits[image, : len(mine)].split(at_once)
        ]
        masks.append(BoxMasks(np.concatenate(whole), scores[image, : len(mine)]))
    return masks


def _joined(parts: Sequence[BoxMasks], size: tuple[int, int]) -> BoxMasks:
    none = BoxMasks(np.zeros((0, *size), dtype=np.bool_), np.zeros(0, dtype=np.float32))
    every = [none, *parts]
    return BoxMasks(
        np.concatenate([part.bitmaps for part in every]), np.concatenate([part.predicted_iou for part in every])
    )
