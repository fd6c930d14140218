"""From what each crop of an image has left to the image's masks.

Bitmaps on the device to the arrays of a cache: measured and run-length encoded there, brought over at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.vision.sam.amg import THRESHOLD, Candidates, View, best, measure, without_small_regions
from pipeline.vision.sam.cache import MaskSet
from pipeline.vision.sam.settings import GeneratorSettings


def pack(bitmaps: Tensor, predicted_iou: Tensor, stability: Tensor) -> MaskSet:
    """Describe the masks of one image.

    Args:
        bitmaps: bool (N, H, W), none of them empty; N may be 0.
        predicted_iou: (N).
        stability: (N).
    """
    count, height, width = bitmaps.shape
    counts, runs = _run_lengths(bitmaps)
    columns, rows = bitmaps.sum(dim=1), bitmaps.sum(dim=2)
    areas = columns.sum(dim=1)
    x, y = (_mean_place(line, areas) for line in (columns, rows))
    (left, right), (top, bottom) = _edges(columns), _edges(rows)
    floats = [left, top, right, bottom, x, y, predicted_iou, stability]
    numbers = [areas, runs]
    table = torch.stack([*(f.float().view(torch.int32) for f in floats), *(n.int() for n in numbers)])
    whole = torch.cat([table.flatten(), counts.int()]).cpu().numpy()
    head, tail = whole[: table.numel()].reshape(len(table), count), whole[table.numel() :]
    measures: NDArray[np.float32] = np.ascontiguousarray(head[:8].T).view(np.float32)
    return MaskSet(
        boxes=measures[:, :4].copy(),
        centroids=measures[:, 4:6].copy(),
        areas=head[8].copy(),
        predicted_iou=measures[:, 6].copy(),
        stability=measures[:, 7].copy(),
        runs=head[9].copy(),
        counts=tail.astype(np.uint32),
        size=(height, width),
    )


def joined_sets(parts: Sequence[MaskSet]) -> MaskSet:
    """Return masks of one image as one set; there must be at least one part."""
    if len(parts) == 1:
        return parts[0]
    return MaskSet(
        boxes=np.concatenate([part.boxes for part in parts]),
        centroids=np.concatenate([part.centroids for part in parts]),
        areas=np.concatenate([part.areas for part in parts]),
        predicted_iou=np.concatenate([part.predicted_iou for part in parts]),
        stability=np.concatenate([part.stability for part in parts]),
        runs=np.concatenate([part.runs for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        size=parts[0].size,
    )


def _run_lengths(bitmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the run lengths of all masks one after the other, and how many each has; see `pipeline.vision.masks`.

    Down the columns of all masks as one line, a run begins where a pixel differs from the one before it, a mask's first
    from false; and a mask's last one ends with the mask.
    """
    count, height, width = bitmaps.shape
    line = bitmaps.transpose(1, 2).reshape(count, height * width)
    differs = line.clone()
    differs[:, 1:] ^= line[:, :-1]
    ends = torch.arange(1, count + 1, device=bitmaps.device) * (height * width)
    bounds = torch.cat([differs.flatten().nonzero()[:, 0], ends]).sort().values
    return bounds.diff(prepend=bounds.new_zeros(1)), differs.sum(dim=1) + 1


def _mean_place(line: Tensor, areas: Tensor) -> Tensor:
    """Return the mean of pixel centres along a side, of pixels counted (N, L) by place; exact but for one division."""
    odd = torch.arange(line.shape[1], device=line.device) * 2 + 1
    return (line * odd).sum(dim=1).double() / (2 * areas)


def _edges(line: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first place of each row (N, L) that is not 0, and the one after the last."""
    length = line.shape[1]
    places = torch.arange(length, device=line.device)
    occupied = line > 0
    return torch.where(occupied, places, length).amin(dim=1), torch.where(occupied, places + 1, 0).amax(dim=1)


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
