"""RoIAlign of regions on an image encoder's feature map, with the picture's padding left out: equation (7)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from pipeline.vision.regions.settings import GRID, RoiSettings

# A last row or column of cells of which less is picture comes of rounding when the image was resized.
_LEAST_SHARE = 0.1
# All regions are pooled in blocks of one shape: PyTorch chooses kernels by shape, and with them the last digit.
_BLOCK = 32
# Pixels of masks of which shares are taken at once: whole masks as floats.
_PIXELS = 1 << 26


def region_grids(
    embeddings: Tensor,
    boxes: Sequence[Tensor],
    spatial_scales: Sequence[float],
    sizes: Sequence[tuple[int, int]],
    settings: RoiSettings,
    *,
    masks: Sequence[Tensor] | None = None,
) -> Tensor:
    """Cut regions out of feature maps: AAPool7×7(RoIAlign(S_i, boxes)) of equations (7) and (8).

    The picture lies in the upper left of its feature map; where it is not square, the rest is padding. Samples beyond
    the picture's edge take the value at the edge, as RoIAlign does at the edge of the map, and never one of padding.
    Each region's values depend on its own image alone, to the last bit on one thread.

    Args:
        embeddings: Feature maps S (B, C, h, w), floating point.
        boxes: Per image (N_i, 4): left, top, right, bottom in pixels of the original image; N_i may be 0.
        spatial_scales: Per image: cells of the feature map per original pixel, `ImageEncoder.scale / patch`.
        sizes: Per image: height and width in original pixels.
        settings: Bins, samples, and whether masks weight the bins.
        masks: Per image (N_i, H, W) bool, on any device; needed with `settings.mask_pooling`. Every bin is then
            multiplied by the share of it that the mask covers over the mean of these shares, so that the mean over all
            bins is the mean over the mask.

    Returns:
        float32 (N, C, 7, 7), N the sum of N_i, images one after the other.

    Raises:
        ValueError: The arguments are not about as many images, or masks are missing.
    """
    if not len(embeddings) == len(boxes) == len(spatial_scales) == len(sizes):
        raise ValueError(
            f"{len(embeddings)} feature maps, {len(boxes)} sets of boxes, {len(spatial_scales)} scales, "
            f"{len(sizes)} sizes"
        )
    if settings.mask_pooling and (masks is None or [len(m) for m in masks] != [len(b) for b in boxes]):
        raise ValueError("pooling by masks needs one mask per box")
    grids = [torch.zeros(0, embeddings.shape[1], GRID, GRID, device=embeddings.device)]
    for image, (inside, scale, (height, width)) in enumerate(zip(boxes, spatial_scales, sizes, strict=True)):
        features = _without_padding(embeddings[image].float(), height * scale, width * scale)
        for start in range(0, len(inside), _BLOCK):
            chosen = slice(start, start + _BLOCK)
            weights = None
            if settings.mask_pooling and masks is not None:
                mine = masks[image][chosen].to(features.device)
                weights = mask_shares(mine, inside[chosen], settings.output_size).to(features)
            grids.append(_pooled(features, inside[chosen].to(features) * scale, weights, settings))
    return torch.cat(grids)


def mask_shares(masks: Tensor, boxes: Tensor, bins: int) -> Tensor:
    """Return which share of each of `bins` × `bins` bins of its box every mask covers.

    Args:
        masks: (N, H, W) bool.
        boxes: (N, 4) in pixels of the masks.
        bins: Bins a side.

    Returns:
        float32 (N, bins, bins), within [0, 1].
    """
    if not len(masks):
        return torch.zeros(0, bins, bins, device=masks.device)
    at_once = max(1, _PIXELS // max(1, masks[0].numel()))
    shares = []
    for some, inside in zip(masks.split(at_once), boxes.to(masks.device).split(at_once), strict=True):
        images = torch.arange(len(some), device=masks.device)[:, None]
        rois = torch.cat([images, inside], dim=1).float()
        shares.append(roi_align(some[:, None].float(), rois, bins, 1.0, -1, True)[:, 0])
    return torch.cat(shares)


def _without_padding(embedding: Tensor, rows: float, columns: float) -> Tensor:
    """Repeat the last row and column of cells (C, h, w) that show the picture over those that show padding."""
    for axis, cells in ((1, rows), (2, columns)):
        last = max(math.ceil(cells - _LEAST_SHARE), 1) - 1
        index = torch.arange(embedding.shape[axis], device=embedding.device).clamp(max=last)
        embedding = embedding.index_select(axis, index)
    return embedding


def _pooled(features: Tensor, boxes: Tensor, weights: Tensor | None, settings: RoiSettings) -> Tensor:
    """Pool at most `_BLOCK` boxes (n, 4), in cells of `features` (C, h, w), to (n, C, 7, 7)."""
    empty = _BLOCK - len(boxes)
    rois = F.pad(boxes, (1, 0, 0, empty))
    bins = roi_align(features[None], rois, settings.output_size, 1.0, settings.sampling_ratio or -1, True)
    if weights is not None:
        mean = weights.mean((1, 2), keepdim=True)
        # A mask that no sample meets says nothing: its whole box counts.
        weights = torch.where(mean > 0, weights / mean.clamp(min=1e-12), torch.ones_like(weights))
        bins = bins * F.pad(weights, (0, 0, 0, 0, 0, empty))[:, None]
    return F.adaptive_avg_pool2d(bins, GRID)[: len(boxes)]
