"""From the candidates of an image's crops to its masks as the cache has them: merged, upsampled, cleaned and packed.

Nothing but masks to be cleaned and what is packed is copied from the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.vision.sam.amg import (
    MASK_THRESHOLD,
    Candidates,
    CropView,
    box_nms,
    inclusive_boxes,
    measure,
    remove_small_regions,
)
from pipeline.vision.sam.cache import MaskSet
from pipeline.vision.sam.settings import GeneratorSettings


def postprocess(
    crops: Sequence[tuple[CropView, Candidates]], settings: GeneratorSettings, masks_at_once: int
) -> MaskSet:
    """Merge, upsample, clean, select and pack the masks of one image.

    Args:
        crops: Each crop of the image and its candidates, best first.
        settings: Thresholds between crops, areas, and the number of masks.
        masks_at_once: Masks that are upsampled at once; beside them, the device holds no more than `max_masks` at full
            size.
    """
    if len(crops) > 1:
        crops = _suppress_between_crops(crops, settings.crop_nms_thresh)
    iou = torch.cat([candidates.predicted_iou for _, candidates in crops])
    stability = torch.cat([candidates.stability for _, candidates in crops])
    batches: Iterable[Tensor] = _upsampled_batches(crops, masks_at_once)
    if settings.min_mask_region_area and len(iou):
        cleaned, indices = _clean(batches, settings, iou.device)
        iou, stability = iou[indices], stability[indices]
        batches = (batch.to(iou.device) for batch in cleaned.split(masks_at_once))
    bitmaps, indices = _select(batches, iou, settings)
    columns = (bitmaps, iou[indices], stability[indices])
    chunks = zip(*(column.split(masks_at_once) for column in columns), strict=True)
    return concat_sets([pack(*chunk) for chunk in chunks])


def _suppress_between_crops(
    crops: Sequence[tuple[CropView, Candidates]], iou_threshold: float
) -> list[tuple[CropView, Candidates]]:
    """Of masks of different crops whose boxes overlap, retain those of the smaller crop."""
    owners = torch.cat([candidates.boxes.new_full((len(candidates),), i) for i, (_, candidates) in enumerate(crops)])
    areas = owners.new_tensor([view.crop.size[0] * view.crop.size[1] for view, _ in crops])
    boxes = torch.cat([candidates.boxes for _, candidates in crops])
    remains = torch.zeros_like(owners, dtype=torch.bool)
    remains[box_nms(boxes, 1 / areas[owners], torch.zeros_like(owners), iou_threshold)] = True
    by_crop = remains.split([len(candidates) for _, candidates in crops])
    return [(view, candidates[rows]) for (view, candidates), rows in zip(crops, by_crop, strict=True)]


def _upsampled_batches(crops: Sequence[tuple[CropView, Candidates]], masks_at_once: int) -> Iterator[Tensor]:
    """Yield the masks (K, H, W) of an image in order; an empty batch where a crop has none."""
    for view, candidates in crops:
        crop, (height, width) = view.crop, view.image_size
        padding = (crop.left, width - crop.right, crop.top, height - crop.bottom)
        for logits in candidates.logits.split(masks_at_once):
            yield F.pad(view.upsampled(logits) > MASK_THRESHOLD, padding)


def _clean(batches: Iterable[Tensor], settings: GeneratorSettings, device: torch.device) -> tuple[Tensor, Tensor]:
    """Remove small holes and islands, then suppress overlapping masks again, unchanged masks first.

    Returns:
        The remaining masks, not on the device, and their indices before, on it.
    """
    cleaned, unchanged, boxes = [], [], []
    for batch in batches:
        if not len(batch):
            continue
        results = [remove_small_regions(mask, settings.min_mask_region_area) for mask in batch.cpu().numpy()]
        cleaned.append(torch.from_numpy(np.stack([mask for mask, _ in results])))
        unchanged += [float(not changed) for _, changed in results]
        boxes.append(measure(cleaned[-1].float(), 0.5).boxes)
    all_boxes = torch.cat(boxes).to(device)
    scores = torch.tensor(unchanged, device=device)
    iou_threshold = max(settings.box_nms_thresh, settings.crop_nms_thresh)
    indices = box_nms(all_boxes, scores, torch.zeros_like(all_boxes[:, 0]), iou_threshold)
    return torch.cat(cleaned)[indices.cpu()], indices


def _select(batches: Iterable[Tensor], iou: Tensor, settings: GeneratorSettings) -> tuple[Tensor, Tensor]:
    """Select at most `max_masks`, best predicted IoU first, larger ones first where it is equal.

    Args:
        batches: All N masks in order, in batches (K, H, W); of earlier ones only those are held that may be selected.
        iou: (N) predicted IoU of all.
        settings: Areas, and the number of masks.

    Returns:
        The selected masks and their indices.
    """
    selected: list[Tensor] = []
    first = 0
    for batch in batches:
        areas = batch.sum(dim=(1, 2))
        indices = torch.arange(first, first + len(batch), device=batch.device)
        first += len(batch)
        max_area = settings.max_area_share * (batch.shape[1] * batch.shape[2])
        allowed = (areas >= settings.min_area) & (areas <= max_area)
        rivals = [batch[allowed], areas[allowed], indices[allowed]]
        if selected:
            rivals = [torch.cat(pair) for pair in zip(selected, rivals, strict=True)]
        # Ties go to the mask that came first: both sorts are stable, and earlier masks precede the new ones.
        order = rivals[1].argsort(descending=True, stable=True)
        order = order[iou[rivals[2][order]].argsort(descending=True, stable=True)][: settings.max_masks]
        selected = [column[order] for column in rivals]
    bitmaps, _, indices = selected
    return bitmaps, indices


def pack(bitmaps: Tensor, predicted_iou: Tensor, stability: Tensor) -> MaskSet:
    """Measure and run-length encode the masks of one image.

    Args:
        bitmaps: bool (N, H, W), none of them empty; N may be 0.
        predicted_iou: (N).
        stability: (N).
    """
    count, height, width = bitmaps.shape
    counts, runs = _run_lengths(bitmaps)
    columns, rows = bitmaps.sum(dim=1), bitmaps.sum(dim=2)
    areas = columns.sum(dim=1)
    left, top, right, bottom = inclusive_boxes(columns > 0, rows > 0).unbind(1)
    centroid = _centroid(columns, areas), _centroid(rows, areas)
    measures = [left, top, right + 1, bottom + 1, *centroid, predicted_iou, stability]
    # One copy of all floats and one of all integers, since every copy waits for the device.
    floats = torch.stack([measure.float() for measure in measures]).cpu().numpy()
    integers = torch.cat([areas.int(), runs.int(), counts.int()]).cpu().numpy()
    return MaskSet(
        boxes=floats[:4].T.copy(),
        centroids=floats[4:6].T.copy(),
        areas=integers[:count].copy(),
        predicted_iou=floats[6].copy(),
        stability=floats[7].copy(),
        runs=integers[count : 2 * count].copy(),
        counts=integers[2 * count :].astype(np.uint32),
        size=(height, width),
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


def _centroid(counts: Tensor, areas: Tensor) -> Tensor:
    """Return the mean of pixel centres (N) along a side, by pixels per position (N, L); exact but for one division."""
    doubled_centres = torch.arange(counts.shape[1], device=counts.device) * 2 + 1
    return (counts * doubled_centres).sum(dim=1).double() / (2 * areas)


def concat_sets(sets: Sequence[MaskSet]) -> MaskSet:
    """Concatenate masks of one image; there must be at least one set."""
    if len(sets) == 1:
        return sets[0]
    return MaskSet(
        boxes=np.concatenate([masks.boxes for masks in sets]),
        centroids=np.concatenate([masks.centroids for masks in sets]),
        areas=np.concatenate([masks.areas for masks in sets]),
        predicted_iou=np.concatenate([masks.predicted_iou for masks in sets]),
        stability=np.concatenate([masks.stability for masks in sets]),
        runs=np.concatenate([masks.runs for masks in sets]),
        counts=np.concatenate([masks.counts for masks in sets]),
        size=sets[0].size,
    )
