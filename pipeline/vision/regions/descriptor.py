"""Region descriptors: RoIAlign on the image encoder's feature map (equation 7), then the head g (equation 8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from pipeline.vision.regions.settings import GRID, HeadSettings, RoiSettings
from pipeline.weights import load_exactly, load_state_dict

# A last row or column of cells that shows less of the image than this share comes from rounding in the resize.
_MIN_SHARE = 0.1
# Regions are pooled in blocks of one shape, since PyTorch chooses kernels, and thus rounding, by shape.
_BLOCK = 32
# Pixels of masks that are converted to float at once.
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
    """Pool the features of regions: AAPool7×7(RoIAlign(S_i, boxes)) of equations (7) and (8).

    The image occupies the upper left of its feature map; where it is not square, the rest is padding. Samples beyond
    the image's edge take the value at the edge, as RoIAlign does at the edge of the map, and never one of padding.
    Each region's values depend on its own image alone, to the last bit on one thread.

    Args:
        embeddings: Feature maps S (B, C, h, w), floating point.
        boxes: Per image (N_i, 4): left, top, right, bottom in pixels of the original image; N_i may be 0.
        spatial_scales: Per image: cells of the feature map per original pixel, `ImageEncoder.scale / patch`.
        sizes: Per image: height and width in original pixels.
        settings: Bins, samples, and whether masks weight the bins.
        masks: Per image (N_i, H, W) bool, on any device; needed with `settings.mask_pooling`. Every bin is then
            multiplied by the share that the mask covers, divided by the mean share, so that the mean over all bins is
            the mean over the mask.

    Returns:
        float32 (N, C, 7, 7), N the sum of N_i, images one after the other.

    Raises:
        ValueError: The arguments differ in the number of images, or masks are missing.
    """
    if not len(embeddings) == len(boxes) == len(spatial_scales) == len(sizes):
        raise ValueError(
            f"{len(embeddings)} feature maps, {len(boxes)} sets of boxes, {len(spatial_scales)} scales, "
            f"{len(sizes)} sizes"
        )
    if settings.mask_pooling and (masks is None or [len(m) for m in masks] != [len(b) for b in boxes]):
        raise ValueError("pooling by masks needs one mask per box")
    grids = [torch.zeros(0, embeddings.shape[1], GRID, GRID, device=embeddings.device)]
    for image, (image_boxes, scale, (height, width)) in enumerate(zip(boxes, spatial_scales, sizes, strict=True)):
        features = _replicate_edge(embeddings[image].float(), height * scale, width * scale)
        for start in range(0, len(image_boxes), _BLOCK):
            rows = slice(start, start + _BLOCK)
            weights = None
            if settings.mask_pooling and masks is not None:
                image_masks = masks[image][rows].to(features.device)
                weights = mask_coverage(image_masks, image_boxes[rows], settings.output_size).to(features)
            grids.append(_pool(features, image_boxes[rows].to(features) * scale, weights, settings))
    return torch.cat(grids)


def mask_coverage(masks: Tensor, boxes: Tensor, bins: int) -> Tensor:
    """Return the share of each of `bins` × `bins` bins of its box that every mask covers.

    Args:
        masks: (N, H, W) bool.
        boxes: (N, 4) in pixels of the masks.
        bins: Bins per side.

    Returns:
        float32 (N, bins, bins), within [0, 1].
    """
    if not len(masks):
        return torch.zeros(0, bins, bins, device=masks.device)
    size = max(1, _PIXELS // max(1, masks[0].numel()))
    shares = []
    for chunk, chunk_boxes in zip(masks.split(size), boxes.to(masks.device).split(size), strict=True):
        indices = torch.arange(len(chunk), device=masks.device)[:, None]
        rois = torch.cat([indices, chunk_boxes], dim=1).float()
        shares.append(roi_align(chunk[:, None].float(), rois, bins, 1.0, -1, True)[:, 0])
    return torch.cat(shares)


def _replicate_edge(embedding: Tensor, rows: float, columns: float) -> Tensor:
    """Overwrite the padding of a feature map (C, h, w) with the last row and column of cells that show the image."""
    for axis, cells in ((1, rows), (2, columns)):
        last = max(math.ceil(cells - _MIN_SHARE), 1) - 1
        index = torch.arange(embedding.shape[axis], device=embedding.device).clamp(max=last)
        embedding = embedding.index_select(axis, index)
    return embedding


def _pool(features: Tensor, boxes: Tensor, weights: Tensor | None, settings: RoiSettings) -> Tensor:
    """Pool at most `_BLOCK` boxes (n, 4), in cells of `features` (C, h, w), to (n, C, 7, 7)."""
    padding = _BLOCK - len(boxes)
    rois = F.pad(boxes, (1, 0, 0, padding))
    bins = roi_align(features[None], rois, settings.output_size, 1.0, settings.sampling_ratio or -1, True)
    if weights is not None:
        mean = weights.mean((1, 2), keepdim=True)
        # Where no sample lies on the mask, the whole box counts.
        weights = torch.where(mean > 0, weights / mean.clamp(min=1e-12), torch.ones_like(weights))
        bins = bins * F.pad(weights, (0, 0, 0, 0, 0, padding))[:, None]
    return F.adaptive_avg_pool2d(bins, GRID)[: len(boxes)]


class DescriptorHead(nn.Module):
    """The head Z = g(X) of equation (8).

    `mean` averages over the grid and has no weights; `conv` is Conv 3×3 – GELU – average – linear.

    Args:
        channels: C, the width of the grids.
        settings: Kind, width, normalisation.

    Attributes:
        width: d, the width of the descriptors.
    """

    def __init__(self, channels: int, settings: HeadSettings) -> None:
        super().__init__()
        self.width = channels if settings.kind == "mean" else settings.width
        self.normalise = settings.normalise
        self.convolution: nn.Module = nn.Identity()
        self.projection: nn.Module = nn.Identity()
        if settings.kind == "conv":
            self.convolution = nn.Sequential(nn.Conv2d(channels, settings.width, 3, padding=1), nn.GELU())
            self.projection = nn.Linear(settings.width, settings.width)
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    nn.init.orthogonal_(parameter)
                else:
                    nn.init.zeros_(parameter)

    def forward(self, grids: Tensor) -> Tensor:
        """Map grids (N, C, 7, 7) to descriptors (N, d)."""
        z: Tensor = self.projection(self.convolution(grids).flatten(2).mean(-1))
        return F.normalize(z, dim=-1) if self.normalise else z


_IN_CAPTIONER = "captioner.descriptors.head."
"""Prefix of the head's weights in model.safetensors of a captioner that trained it."""


def build_head(channels: int, settings: HeadSettings) -> DescriptorHead:
    """Build g in evaluation mode, with trained weights or seeded random ones.

    Args:
        channels: C, the width of the grids.
        settings: Kind, width, weights, seed.

    Raises:
        CheckpointError: The weights are missing, damaged, or belong to another head.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        head = DescriptorHead(channels, settings)
    if settings.kind == "conv" and settings.weights is not None:
        path = Path(settings.weights)
        state = load_state_dict(path)
        trained = {name: tensor for name, tensor in state.items() if name.startswith(_IN_CAPTIONER)}
        load_exactly(
            head,
            {name.removeprefix(_IN_CAPTIONER): tensor for name, tensor in trained.items()} or state,
            kind=f"a descriptor head from {channels} to {settings.width} channels",
            path=path,
            fix="set models.head.width to the head that the file belongs to, or models.head.weights to another file",
        )
    return head.eval()


@torch.inference_mode()
def apply_head(head: DescriptorHead, grids: Tensor) -> Tensor:
    """Apply g to grids (N, C, 7, 7) in blocks of one shape; float32 (N, d), the same bits whatever N is."""
    descriptors = [grids.new_zeros(0, head.width)]
    for start in range(0, len(grids), _BLOCK):
        block = grids[start : start + _BLOCK]
        padding = _BLOCK - len(block)
        descriptors.append(head(F.pad(block, (0, 0, 0, 0, 0, 0, 0, padding)))[: len(block)])
    return torch.cat(descriptors)


def region_descriptors(
    embeddings: Tensor,
    boxes: Sequence[Tensor],
    spatial_scales: Sequence[float],
    sizes: Sequence[tuple[int, int]],
    head: DescriptorHead,
    settings: RoiSettings,
    *,
    masks: Sequence[Tensor] | None = None,
) -> Tensor:
    """Return the descriptors Z of equation (8), float32 (N, d); see `region_grids` for the arguments."""
    return apply_head(head, region_grids(embeddings, boxes, spatial_scales, sizes, settings, masks=masks))
