"""Masks on their way: what is looked at, and what of it has passed so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.vision.sam.encoding import input_size
from pipeline.vision.sam.points import Crop
from pipeline.vision.sam.upsampling import upsample


@dataclass(frozen=True)
class View:
    """One crop of one image, as the encoder sees it.

    Attributes:
        crop: Which part of the image.
        image: Height and width of the whole image in pixels.
        encoder: Side in pixels of the square that the encoder sees.
    """

    crop: Crop
    image: tuple[int, int]
    encoder: int

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width of the crop within that square."""
        return input_size(*self.crop.size, self.encoder)

    @property
    def pixels(self) -> int:
        """Pixels that one mask takes while it is drawn: those of the encoder's square, or the whole image's."""
        return max(self.encoder**2, self.image[0] * self.image[1])

    def within(self, logits: Tensor) -> Tensor:
        """Return of low-resolution logits (K, h, w) the part that shows the crop and not what it is padded with."""
        rows, columns = (math.ceil(side * logits.shape[-1] / self.encoder) for side in self.shown)
        return logits[:, :rows, :columns]

    def drawn(self, logits: Tensor) -> Tensor:
        """Return low-resolution logits (K, h, w) at the size of the crop, (K, H, W) float32."""
        return upsample(logits.float(), encoder=self.encoder, shown=self.shown, original=self.crop.size)


@dataclass(frozen=True)
class Candidates:
    """K masks of one view.

    Attributes:
        logits: (K, h, w): in low resolution.
        predicted_iou: (K) float32.
        stability: (K) float32.
        boxes: (K, 4) int64, in pixels of the image; see `pipeline.vision.sam.filtering`.
    """

    logits: Tensor
    predicted_iou: Tensor
    stability: Tensor
    boxes: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, chosen: Tensor) -> Candidates:
        """Return those of the given numbers, or where a bool tensor is true."""
        return Candidates(self.logits[chosen], self.predicted_iou[chosen], self.stability[chosen], self.boxes[chosen])


def joined(parts: Sequence[Candidates]) -> Candidates:
    """Return candidates of one view as one; there must be at least one part."""
    if len(parts) == 1:
        return parts[0]
    return Candidates(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.predicted_iou for part in parts]),
        torch.cat([part.stability for part in parts]),
        torch.cat([part.boxes for part in parts]),
    )
