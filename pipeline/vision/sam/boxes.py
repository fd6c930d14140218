"""Masks of objects that are known by their boxes: SAM's box prompts, batched over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.vision.sam.decoding import PromptDecoder
from pipeline.vision.sam.encoding import input_size
from pipeline.vision.sam.upsampling import THRESHOLD, upsample

_FIRST = slice(0, 1)
"""The mask that the decoder gives for prompts that mean one object."""


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

    Raises:
        ValueError: There are not as many sizes and lists of boxes as embeddings.
    """
    if not len(embeddings) == len(boxes) == len(sizes):
        raise ValueError(f"{len(embeddings)} embeddings, {len(boxes)} lists of boxes and {len(sizes)} sizes")
    side = decoder.encoder_size
    shown = [input_size(*size, side) for size in sizes]
    found: list[list[BoxMasks]] = [[] for _ in sizes]
    images = decoder.image_side(embeddings)
    for start in range(0, max(map(len, boxes), default=0), boxes_per_pass):
        prompts = np.zeros((len(boxes), boxes_per_pass, 4), dtype=np.float32)
        counts = []
        for row, mine, size, inside in zip(prompts, boxes, sizes, shown, strict=True):
            part = np.asarray(mine, dtype=np.float64)[start : start + boxes_per_pass]
            row[: len(part)] = part * np.tile([inside[1] / size[1], inside[0] / size[0]], 2)
            counts.append(len(part))
        sparse = decoder.boxes(torch.from_numpy(prompts).flatten(0, 1)).unflatten(0, (len(boxes), boxes_per_pass))
        decoded = decoder.decode(images, sparse)
        everyone = torch.arange(len(decoded.iou), device=decoder.device)
        logits = decoder.logits(decoded, everyone, _FIRST)[:, 0].unflatten(0, (len(boxes), boxes_per_pass))
        scores = decoded.iou[:, 0].view(len(boxes), boxes_per_pass).cpu().numpy()
        for image, count in enumerate(counts):
            whole = upsample(logits[image, :count], encoder=side, shown=shown[image], original=sizes[image])
            found[image].append(BoxMasks((whole > THRESHOLD).cpu().numpy(), scores[image, :count]))
    return [_joined(parts, size) for parts, size in zip(found, sizes, strict=True)]


def _joined(parts: Sequence[BoxMasks], size: tuple[int, int]) -> BoxMasks:
    none = BoxMasks(np.zeros((0, *size), dtype=np.bool_), np.zeros(0, dtype=np.float32))
    every = [none, *parts]
    return BoxMasks(
        np.concatenate([part.bitmaps for part in every]), np.concatenate([part.predicted_iou for part in every])
    )
