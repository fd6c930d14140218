"""Batches of tensors, and small operations on image and mask tensors that several packages share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes


class TensorBatch:
    """Mixin for dataclasses whose fields are tensors, or other such batches, with one common first axis."""

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return the batch with `function` applied to every tensor."""
        values: dict[str, Any] = {
            name: value.map(function) if isinstance(value, TensorBatch) else function(value)
            for name, value in vars(self).items()
        }
        return type(self)(**values)

    def to(self, device: torch.device) -> Self:
        """Return the batch on `device`."""
        return self.map(lambda tensor: tensor.to(device))

    def select(self, rows: Tensor | slice) -> Self:
        """Return the batch of the elements at `rows`."""
        return self.map(lambda tensor: tensor[rows])

    @classmethod
    def cat(cls, batches: Sequence[Self]) -> Self:
        """Concatenate batches along the first axis."""
        values: dict[str, Any] = {}
        for name, first in vars(batches[0]).items():
            columns = [getattr(batch, name) for batch in batches]
            values[name] = type(first).cat(columns) if isinstance(first, TensorBatch) else torch.cat(columns)
        return cls(**values)


def rotate_and_flip(x: Tensor, quarter_turns: int, mirrored: bool) -> Tensor:
    """Rotate images (…, H, W) counterclockwise by quarter turns, then mirror them left to right if `mirrored`.

    The augmentation of overhead images, which have no upright orientation.
    """
    rotated = torch.rot90(x, quarter_turns, (-2, -1))
    return rotated.flip(-1) if mirrored else rotated


def boxes_of_masks(masks: Tensor) -> Tensor:
    """Return the smallest boxes around non-empty masks (N, H, W), float32 (N, 4) px.

    Left, top, right, bottom, the latter two exclusive; those of `torchvision.ops.masks_to_boxes` are inclusive.
    """
    boxes: Tensor = masks_to_boxes(masks)
    return boxes + boxes.new_tensor([0, 0, 1, 1])
