"""From the mask decoder's low-resolution logits to masks of the image."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

THRESHOLD = 0.0
"""Logits above it are of the mask (segment_anything's `mask_threshold`)."""


def upsample(logits: Tensor, *, encoder: int, shown: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Bring logits to the size of the image, bilinearly by way of the encoder's size as segment_anything does.

    Args:
        logits: (K, h, w) float32, of the whole padded square.
        encoder: Side in pixels of that square as the encoder saw it.
        shown: Height and width in pixels of the image within the square; the rest is padding.
        original: Height and width of the image in its own pixels.

    Returns:
        (K, H, W) float32.
    """
    height, width = shown
    square = F.interpolate(logits[:, None], (encoder, encoder), mode="bilinear", align_corners=False)
    part = square[..., :height, :width]
    if shown == original:
        return part[:, 0]
    return F.interpolate(part, original, mode="bilinear", align_corners=False)[:, 0]
