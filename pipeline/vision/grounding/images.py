"""Images as Grounding DINO sees them: scaled, normalised, on a square canvas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.vision.sam.encoding import resize

# ImageNet's, as published; on a scale of 0–255.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def normalise(images: Tensor) -> Tensor:
    """Bring RGB images (B, 3, H, W), 0–255 of any dtype, to the detector's scale, as float32."""
    mean = torch.tensor(_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(_STD, device=images.device).view(1, 3, 1, 1)
    return (images.float() - mean) / std


def canvas(images: Sequence[NDArray[np.uint8]], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lay images into the upper left of squares, so that what a model sees of one does not depend on the others.

    Args:
        images: RGB (H, W, 3), of any and of different sizes; their longer side is brought to `size` (bilinear).
        size: Side of the squares.
        device: Where the tensors are to be.

    Returns:
        (B, 3, size, size) normalised, zero in the padding; (B, size, size) bool, true in the padding.
    """
    pixels = torch.zeros(len(images), 3, size, size, device=device)
    padding = torch.ones(len(images), size, size, dtype=torch.bool, device=device)
    for row, image in enumerate(images):
        scaled = torch.from_numpy(np.array(resize(image, size))).to(device).permute(2, 0, 1)
        height, width = scaled.shape[1:]
        pixels[row, :, :height, :width] = normalise(scaled[None])[0]
        padding[row, :height, :width] = False
    return pixels, padding
