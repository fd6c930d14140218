"""From what each crop of an image has left to the image's masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.vision.sam.cache import MaskSet
from pipeline.vision.sam.candidates import Candidates, View
from pipeline.vision.sam.filtering import best, measure
from pipeline.vision.sam.packing import pack
from pipeline.vision.sam.settings import GeneratorSettings
from pipeline.vision.sam.small_regions import without_small_regions
from pipeline.vision.sam.upsampling import THRESHOLD

_AT_ONCE = 64
"""Masks that are drawn at once."""


def finished(found: Sequence[tuple[View, Candidates]], settings: GeneratorSettings) -> MaskSet:
    """Draw, clean, choose and pack the masks of one image.

    Args:
        found: Each crop of the image and what was found in it, best first.
        settings: Thresholds between crops, areas, and how many are kept.
    """
    if len(found) > 1:
        found = _best_of_crops(found, settings.crop_nms)
    bitmaps = torch.cat([_bitmaps(view, part) for view, mine in found for part in mine.logits.split(_AT_ONCE)])
    iou = torch.cat([mine.predicted_iou for _, mine in found])
    stability = torch.cat([mine.stability for _, mine in found])
    if settings.min_region_area and len(bitmaps):
        bitmaps, left = _cleaned(bitmaps, settings)
        iou, stability = iou[left], stability[left]
    chosen = _chosen(bitmaps.sum(dim=(1, 2)), iou, bitmaps[0].numel() if len(bitmaps) else 0, settings)
    return pack(bitmaps[chosen], iou[chosen], stability[chosen])


def _best_of_crops(found: Sequence[tuple[View, Candidates]], overlap: float) -> list[tuple[View, Candidates]]:
    """Of masks of different crops that overlap, keep those of the smaller crop."""
    owners = torch.cat([mine.boxes.new_full((len(mine),), number) for number, (_, mine) in enumerate(found)])
    areas = owners.new_tensor([view.crop.size[0] * view.crop.size[1] for view, _ in found])
    boxes = torch.cat([mine.boxes for _, mine in found])
    left = torch.zeros_like(owners, dtype=torch.bool)
    left[best(boxes, 1 / areas[owners], torch.zeros_like(owners), overlap)] = True
    parts = left.split([len(mine) for _, mine in found])
    return [(view, mine[part]) for (view, mine), part in zip(found, parts, strict=True)]


def _bitmaps(view: View, logits: Tensor) -> Tensor:
    """Return the masks (K, H, W) of the image that low-resolution logits (K, h, w) of a crop are."""
    crop, (height, width) = view.crop, view.image
    masks = view.drawn(logits) > THRESHOLD
    return F.pad(masks, (crop.left, width - crop.right, crop.top, height - crop.bottom))


def _cleaned(bitmaps: Tensor, settings: GeneratorSettings) -> tuple[Tensor, Tensor]:
    """Remove small holes and islands, then again what overlaps; masks that needed no mending come first.

    Returns:
        The masks that are left, and their numbers before.
    """
    results = [without_small_regions(mask, settings.min_region_area) for mask in bitmaps.cpu().numpy()]
    cleaned = torch.from_numpy(np.stack([mask for mask, _ in results])).to(bitmaps.device)
    scores = torch.tensor([float(not changed) for _, changed in results], device=bitmaps.device)
    boxes = measure(cleaned.float(), 0.5).boxes
    left = best(boxes, scores, torch.zeros_like(boxes[:, 0]), max(settings.box_nms, settings.crop_nms))
    return cleaned[left], left


def _chosen(areas: Tensor, iou: Tensor, pixels: int, settings: GeneratorSettings) -> Tensor:
    """Return the numbers of the masks that are kept, best first."""
    fitting = (areas >= settings.min_area) & (areas <= settings.max_area_share * pixels)
    numbers = fitting.nonzero()[:, 0]
    numbers = numbers[areas[numbers].argsort(descending=True, stable=True)]
    return numbers[iou[numbers].argsort(descending=True, stable=True)][: settings.keep]
