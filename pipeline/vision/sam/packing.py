"""Bitmaps on the device to the arrays of a cache: measured and run-length encoded there, brought over at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.vision.sam.cache import MaskSet


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
    """Return the run lengths of all masks one after the other, and how many each has; see `pipeline.vision.rle`.

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
