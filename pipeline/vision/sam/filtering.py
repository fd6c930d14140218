"""Which masks stay: stable ones, not cut off by a crop, and of those that overlap the best.

Boxes in here are left, top, right, bottom with the last pixel's own number as right and bottom, as the reference
compares them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from pipeline.vision.sam.points import Crop
from pipeline.vision.sam.upsampling import THRESHOLD

_NEAR = 20
"""Pixels within which a mask's edge counts as the crop's (segment_anything's `is_box_near_crop_edge`)."""


class Measures(NamedTuple):
    """What decides about K masks.

    Attributes:
        stability: (K) float32: stability score; NaN where both masks that it compares are empty.
        boxes: (K, 4) int64; right is less than left where the mask is empty.
    """

    stability: Tensor
    boxes: Tensor


def measure(logits: Tensor, offset: float) -> Measures:
    """Measure masks by their logits (K, H, W).

    The stability score is the IoU of the masks above `THRESHOLD` + `offset` and − `offset`; the one holds the other.
    """
    inner, outer = (_count_above(logits, THRESHOLD + shift) for shift in (offset, -offset))
    left, right = _ends(logits.amax(dim=1) > THRESHOLD)
    top, bottom = _ends(logits.amax(dim=2) > THRESHOLD)
    return Measures(inner / outer, torch.stack([left, top, right, bottom], dim=1))


def cut_off(boxes: Tensor, crop: Crop, size: tuple[int, int]) -> Tensor:
    """Tell which boxes (K, 4), in pixels of the image, end at an edge of the crop that is no edge of the image."""
    height, width = size
    own = boxes.new_tensor([crop.left, crop.top, crop.right, crop.bottom])
    whole = boxes.new_tensor([0, 0, width, height])
    return (((boxes - own).abs() <= _NEAR) & ((boxes - whole).abs() > _NEAR)).any(dim=1)


def best(boxes: Tensor, scores: Tensor, groups: Tensor, overlap: float) -> Tensor:
    """Return the numbers of the boxes (K, 4) that non-maximum suppression within each group leaves, best first."""
    left: Tensor = batched_nms(boxes.float(), scores.float(), groups, overlap)
    return left


def best_by_mask(masks: Tensor, overlap: float, at_once: int | None = None) -> Tensor:
    """Return the numbers of the masks (K, h, w), best first, of which no better one that stays has IoU > `overlap`.

    Args:
        masks: bool (K, h, w), best first.
        overlap: IoU from which on one is too much.
        at_once: Masks of which floats are made at once, to compare them; None: all.
    """
    blocks = masks.flatten(1).split(at_once or max(1, len(masks)))
    # Products of 0 and 1 are exact, so the comparison is the same on every device and in blocks of any size.
    shared = torch.cat([torch.cat([some.float() @ other.float().T for other in blocks], dim=1) for some in blocks])
    areas = shared.diagonal()
    too_much = (shared > overlap * (areas[:, None] + areas[None] - shared)).cpu().numpy()
    left: list[int] = []
    for number in range(len(masks)):
        if not too_much[number, left].any():
            left.append(number)
    return torch.tensor(left, dtype=torch.int64, device=masks.device)


def _count_above(logits: Tensor, threshold: float) -> Tensor:
    if logits.device.type == "cpu":
        # NumPy compares and counts several times as fast as torch does on a CPU.
        return torch.tensor([np.count_nonzero(mask) for mask in logits.numpy() > threshold], dtype=torch.int32)
    return (logits > threshold).sum(dim=(1, 2), dtype=torch.int32)


def _ends(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and last true entry of each row (K, L); where there is none, L and −1."""
    length = occupied.shape[1]
    places = torch.arange(length, device=occupied.device)
    return torch.where(occupied, places, length).amin(dim=1), torch.where(occupied, places, -1).amax(dim=1)
