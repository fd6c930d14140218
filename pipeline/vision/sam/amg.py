"""Removing small holes and islands from masks, as segment_anything's `remove_small_regions` does with OpenCV.

Where an image is asked: crops of it, and a grid of points over each.

Masks on their way: what is looked at, and what of it has passed so far.

From the mask decoder's low-resolution logits to masks of the image.

Which masks stay: stable ones, not cut off by a crop, and of those that overlap the best.

Boxes in here are left, top, right, bottom with the last pixel's own number as right and bottom, as the reference
compares them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms

from pipeline.vision.sam.encoder import input_size
from pipeline.vision.sam.settings import GeneratorSettings


@dataclass(frozen=True)
class Crop:
    """A part of an image that is looked at by itself; edges in pixels, right and bottom exclusive.

    Attributes:
        left: Left edge.
        top: Upper edge.
        right: Right edge.
        bottom: Lower edge.
        points: Points a side of its grid.
    """

    left: int
    top: int
    right: int
    bottom: int
    points: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    def of(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut it out of an image (H, W, 3)."""
        return image[self.top : self.bottom, self.left : self.right]


def crops(height: int, width: int, settings: GeneratorSettings) -> list[Crop]:
    """Return the whole image, and the crops of each layer; as many for images of every size.

    Layer i has 2^i × 2^i crops, column by column. Those of the first overlap by `crop_overlap` of the shorter side,
    those of deeper ones by half as much each time: segment_anything's `generate_crop_boxes`.
    """
    found = [Crop(0, 0, width, height, settings.points_per_side)]
    for layer in range(1, settings.crop_layers + 1):
        across = 2**layer
        points = max(1, settings.points_per_side // settings.crop_points_downscale**layer)
        overlap = int(settings.crop_overlap * min(height, width) * (2 / across))
        tall, wide = (math.ceil((overlap * (across - 1) + side) / across) for side in (height, width))
        for column, row in product(range(across), repeat=2):
            left, top = min(column * (wide - overlap), width - 1), min(row * (tall - overlap), height - 1)
            found.append(Crop(left, top, min(left + wide, width), min(top + tall, height), points))
    return found


def grid(points: int, size: tuple[int, int], shown: tuple[int, int]) -> NDArray[np.float64]:
    """Return the centres of `points` × `points` equal parts of an image, row by row.

    Args:
        points: Parts a side.
        size: Height and width of the image in its own pixels.
        shown: Height and width as the encoder sees it.

    Returns:
        (points², 2): x, y in pixels of the encoder's image.
    """
    line = np.linspace(1 / (2 * points), 1 - 1 / (2 * points), points)
    x, y = np.meshgrid(line, line)
    unit = np.stack([x, y], axis=-1).reshape(-1, 2)
    # In this order of multiplications, so that the numbers are the reference's to the last bit.
    placed: NDArray[np.float64] = unit * np.array(size[::-1]) * (np.array(shown[::-1]) / np.array(size[::-1]))
    return placed


def every(points: int, stride: int) -> NDArray[np.int64]:
    """Return the numbers of every `stride`-th point, in both directions, of a grid of `points` × `points`."""
    line = np.arange(min(stride // 2, points - 1), points, stride)
    return np.asarray((line[:, None] * points + line).ravel())


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
        boxes: (K, 4) int64, in pixels of the image; see `pipeline.vision.sam.amg`.
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


_NEAR = 20
"""Pixels within which a mask's edge counts as the crop's (segment_anything's `is_box_near_crop_edge`)."""


class Measures(NamedTuple):
    """What decides about K masks.

    Attributes:
        stability: (K) float32: stability score; NaN where both masks that it compares are empty.
        boxes: (K, 4) int64; right is less than left where the mask is empty.
    """

    stability: Tensor
    boxes: Tensor


def measure(logits: Tensor, offset: float) -> Measures:
    """Measure masks by their logits (K, H, W).

    The stability score is the IoU of the masks above `THRESHOLD` + `offset` and − `offset`; the one holds the other.
    """
    inner, outer = (_count_above(logits, THRESHOLD + shift) for shift in (offset, -offset))
    left, right = _ends(logits.amax(dim=1) > THRESHOLD)
    top, bottom = _ends(logits.amax(dim=2) > THRESHOLD)
    return Measures(inner / outer, torch.stack([left, top, right, bottom], dim=1))


def cut_off(boxes: Tensor, crop: Crop, size: tuple[int, int]) -> Tensor:
    """Tell which boxes (K, 4), in pixels of the image, end at an edge of the crop that is no edge of the image."""
    height, width = size
    own = boxes.new_tensor([crop.left, crop.top, crop.right, crop.bottom])
    whole = boxes.new_tensor([0, 0, width, height])
    return (((boxes - own).abs() <= _NEAR) & ((boxes - whole).abs() > _NEAR)).any(dim=1)


def best(boxes: Tensor, scores: Tensor, groups: Tensor, overlap: float) -> Tensor:
    """Return the numbers of the boxes (K, 4) that non-maximum suppression within each group leaves, best first."""
    left: Tensor = batched_nms(boxes.float(), scores.float(), groups, overlap)
    return left


def best_by_mask(masks: Tensor, overlap: float, at_once: int | None = None) -> Tensor:
    """Return the numbers of the masks (K, h, w), best first, of which no better one that stays has IoU > `overlap`.

    Args:
        masks: bool (K, h, w), best first.
        overlap: IoU from which on one is too much.
        at_once: Masks of which floats are made at once, to compare them; None: all.
    """
    blocks = masks.flatten(1).split(at_once or max(1, len(masks)))
    # Products of 0 and 1 are exact, so the comparison is the same on every device and in blocks of any size.
    shared = torch.cat([torch.cat([some.float() @ other.float().T for other in blocks], dim=1) for some in blocks])
    areas = shared.diagonal()
    too_much = (shared > overlap * (areas[:, None] + areas[None] - shared)).cpu().numpy()
    left: list[int] = []
    for number in range(len(masks)):
        if not too_much[number, left].any():
            left.append(number)
    return torch.tensor(left, dtype=torch.int64, device=masks.device)


def _count_above(logits: Tensor, threshold: float) -> Tensor:
    if logits.device.type == "cpu":
        # NumPy compares and counts several times as fast as torch does on a CPU.
        return torch.tensor([np.count_nonzero(mask) for mask in logits.numpy() > threshold], dtype=torch.int32)
    return (logits > threshold).sum(dim=(1, 2), dtype=torch.int32)


def _ends(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and last true entry of each row (K, L); where there is none, L and −1."""
    length = occupied.shape[1]
    places = torch.arange(length, device=occupied.device)
    return torch.where(occupied, places, length).amin(dim=1), torch.where(occupied, places, -1).amax(dim=1)


_TOUCHING = np.ones((3, 3), dtype=np.bool_)
"""Pixels that touch at a corner are of one region."""


def without_small_regions(mask: NDArray[np.bool_], area: int) -> tuple[NDArray[np.bool_], bool]:
    """Fill the holes of a mask (H, W) of fewer than `area` pixels, then remove its islands of fewer.

    Where all islands are that small, the largest stays.

    Returns:
        The mask, and whether it has changed.
    """
    holes, small, _ = _regions(~mask, area)
    filled = mask | np.isin(holes, small)
    islands, less, largest = _regions(filled, area)
    if less.size:
        kept = np.setdiff1d(np.arange(1, int(islands.max()) + 1), less)
        filled = np.isin(islands, kept if kept.size else largest)
    return filled, bool(small.size or less.size)


def _regions(mask: NDArray[np.bool_], area: int) -> tuple[NDArray[np.int32], NDArray[np.int64], int]:
    """Return a mask's regions numbered from 1, the numbers of those of fewer than `area` pixels, and of the largest."""
    labels, count = ndimage.label(mask, structure=_TOUCHING)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return labels, np.flatnonzero(sizes < area) + 1, int(sizes.argmax()) + 1 if count else 0
