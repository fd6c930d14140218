"""Descriptors of regions, equation (8): a head with its weights, applied to grids or to a feature map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.vision.regions.head import DescriptorHead
from pipeline.vision.regions.roi import region_grids
from pipeline.vision.regions.settings import HeadSettings, RoiSettings
from pipeline.vision.weights import load_exactly, load_state_dict

_IN_CAPTIONER = "captioner.descriptors.head."
"""What the names of a head's weights begin with in the model.safetensors of the captioner that it was trained with."""

# See `roi._BLOCK`.
_BLOCK = 32


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
            fix="set regions.head.width to the head that the file belongs to, or regions.head.weights to another file",
        )
    return head.eval()


@torch.inference_mode()
def describe(head: DescriptorHead, grids: Tensor) -> Tensor:
    """Apply g to grids (N, C, 7, 7) in blocks of one shape; float32 (N, d), equal bits whatever N is."""
    parts = [grids.new_zeros(0, head.width)]
    for start in range(0, len(grids), _BLOCK):
        block = grids[start : start + _BLOCK]
        empty = _BLOCK - len(block)
        parts.append(head(F.pad(block, (0, 0, 0, 0, 0, 0, 0, empty)))[: len(block)])
    return torch.cat(parts)


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
    return describe(head, region_grids(embeddings, boxes, spatial_scales, sizes, settings, masks=masks))
