"""From what each crop of an image has left to the image's masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.vision.sam.cache import MaskSet
from pipeline.vision.sam.candidates import Candidates, View
from pipeline.vision.sam.filtering import best, measure
from pipeline.vision.sam.packing import joined_sets, pack
from pipeline.vision.sam.settings import GeneratorSettings
from pipeline.vision.sam.small_regions import without_small_regions
from pipeline.vision.sam.upsampling import THRESHOLD


def finished(found: Sequence[tuple[View, Candidates]], settings: GeneratorSettings, at_once: int) -> MaskSet:
    """Draw, clean, choose and pack the masks of one image.

    Args:
        found: Each crop of the image and what was found in it, best first.
        settings: Thresholds between crops, areas, and how many are kept.
        at_once: Masks that are drawn at once; beside them, the device holds no more at full size than are kept.
    """
    if len(found) > 1:
        found = _best_of_crops(found, settings.crop_nms)
    iou = torch.cat([mine.predicted_iou for _, mine in found])
    stability = torch.cat([mine.stability for _, mine in found])
    bitmaps: Iterable[Tensor] = _drawn(found, at_once)
    if settings.min_region_area and len(iou):
        cleaned, left = _cleaned(bitmaps, settings, iou.device)
        iou, stability = iou[left], stability[left]
        bitmaps = (part.to(iou.device) for part in cleaned.split(at_once))
    chosen, numbers = _chosen(bitmaps, iou, settings)
    parts = zip(chosen.split(at_once), iou[numbers].split(at_once), stability[numbers].split(at_once), strict=True)
    return joined_sets([pack(*part) for part in parts])


def _drawn(found: Sequence[tuple[View, Candidates]], at_once: int) -> Iterator[Tensor]:
    """Yield the masks (K, H, W) of an image in order; at least once, if only none."""
    for view, mine in found:
        for part in mine.logits.split(at_once):
            yield _bitmaps(view, part)


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


def _cleaned(bitmaps: Iterable[Tensor], settings: GeneratorSettings, device: torch.device) -> tuple[Tensor, Tensor]:
    """Remove small holes and islands, then again what overlaps; masks that needed no mending come first.

    Returns:
        The masks that are left, not on the device, and their numbers before, on it.
    """
    cleaned, unchanged, boxes = [], [], []
    for part in bitmaps:
        if not len(part):
            continue
        results = [without_small_regions(mask, settings.min_region_area) for mask in part.cpu().numpy()]
        cleaned.append(torch.from_numpy(np.stack([mask for mask, _ in results])))
        unchanged += [float(not changed) for _, changed in results]
        boxes.append(measure(cleaned[-1].float(), 0.5).boxes)
    places = torch.cat(boxes).to(device)
    scores = torch.tensor(unchanged, device=device)
    left = best(places, scores, torch.zeros_like(places[:, 0]), max(settings.box_nms, settings.crop_nms))
    return torch.cat(cleaned)[left.cpu()], left


def _chosen(bitmaps: Iterable[Tensor], iou: Tensor, settings: GeneratorSettings) -> tuple[Tensor, Tensor]:
    """Return the masks that are kept and their numbers, best predicted IoU first, larger ones first where it is equal.

    Args:
        bitmaps: All masks in order, in parts (K, H, W); of earlier parts only those are held that may yet be kept.
        iou: (N) predicted IoU of all.
        settings: Areas, and how many are kept.
    """
    kept: list[Tensor] = []
    first = 0
    for part in bitmaps:
        areas = part.sum(dim=(1, 2))
        numbers = torch.arange(first, first + len(part), device=part.device)
        first += len(part)
        most = settings.max_area_share * (part.shape[1] * part.shape[2])
        fitting = (areas >= settings.min_area) & (areas <= most)
        rivals = [part[fitting], areas[fitting], numbers[fitting]]
        if kept:
            rivals = [torch.cat(pair) for pair in zip(kept, rivals, strict=True)]
        # Ties go to the mask that came first: both sorts are stable, and what was kept stands before what is new.
        order = rivals[1].argsort(descending=True, stable=True)
        order = order[iou[rivals[2][order]].argsort(descending=True, stable=True)][: settings.keep]
        kept = [some[order] for some in rivals]
    masks, _, chosen = kept
    return masks, chosen
