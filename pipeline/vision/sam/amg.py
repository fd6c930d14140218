"""Steps of automatic mask generation: crops and point grids, and measuring, comparing and cleaning candidate masks.

Most are segment_anything's own (`segment_anything.utils.amg`), on whole batches. Boxes are left, top, right, bottom in
pixels with the last pixel's own index as right and bottom, as segment_anything compares them.
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
    """A part of an image in which masks are sought by themselves; edges in pixels, right and bottom exclusive.

    Attributes:
        left: Left edge.
        top: Upper edge.
        right: Right edge.
        bottom: Lower edge.
        points: Points a side of its point grid.
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

    def cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return this part of an image (H, W, 3)."""
        return image[self.top : self.bottom, self.left : self.right]


def crops(height: int, width: int, settings: GeneratorSettings) -> list[Crop]:
    """Return the whole image and the crops of each layer, whose number does not depend on the image's size.

    Layer i has 2^i × 2^i crops, column by column. Those of layer 1 overlap by `crop_overlap_ratio` of the shorter side,
    those of each deeper one by half as much: segment_anything's `generate_crop_boxes`.
    """
    layers = [Crop(0, 0, width, height, settings.points_per_side)]
    for layer in range(1, settings.crop_n_layers + 1):
        across = 2**layer
        points = max(1, settings.points_per_side // settings.crop_n_points_downscale_factor**layer)
        overlap = int(settings.crop_overlap_ratio * min(height, width) * (2 / across))
        tall, wide = (math.ceil((overlap * (across - 1) + side) / across) for side in (height, width))
        for column, row in product(range(across), repeat=2):
            left, top = min(column * (wide - overlap), width - 1), min(row * (tall - overlap), height - 1)
            layers.append(Crop(left, top, min(left + wide, width), min(top + tall, height), points))
    return layers


def point_grid(points: int, size: tuple[int, int], valid_size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the centres of `points` × `points` equal parts of an image, row by row.

    Args:
        points: Parts a side.
        size: Height and width of the image in its own pixels.
        valid_size: Height and width of the image in the encoder's pixels.

    Returns:
        (points², 2): x, y in pixels of the encoder's image.
    """
    line = np.linspace(1 / (2 * points), 1 - 1 / (2 * points), points)
    x, y = np.meshgrid(line, line)
    unit = np.stack([x, y], axis=-1).reshape(-1, 2)
    # In this order of multiplications the numbers are segment_anything's to the last bit.
    scaled: NDArray[np.float64] = unit * np.array(size[::-1]) * (np.array(valid_size[::-1]) / np.array(size[::-1]))
    return scaled


def coarse_indices(points: int, stride: int) -> NDArray[np.int64]:
    """Return the indices of every `stride`-th point, in both directions, of a grid of `points` × `points`."""
    line = np.arange(min(stride // 2, points - 1), points, stride)
    return np.asarray((line[:, None] * points + line).ravel())


MASK_THRESHOLD = 0.0
"""Logits above it are of the mask (segment_anything's `mask_threshold`)."""


def upsample(
    logits: Tensor, *, encoder_size: int, valid_size: tuple[int, int], original_size: tuple[int, int]
) -> Tensor:
    """Upsample logits to the image bilinearly, by way of the encoder's size: segment_anything's `postprocess_masks`.

    Args:
        logits: (K, h, w) float32, of the whole padded square.
        encoder_size: Side in pixels of that square as the encoder saw it.
        valid_size: Height and width in pixels of the image within the square; the rest is padding.
        original_size: Height and width of the image in its own pixels.

    Returns:
        (K, H, W) float32.
    """
    height, width = valid_size
    square = F.interpolate(logits[:, None], (encoder_size, encoder_size), mode="bilinear", align_corners=False)
    valid = square[..., :height, :width]
    if valid_size == original_size:
        return valid[:, 0]
    return F.interpolate(valid, original_size, mode="bilinear", align_corners=False)[:, 0]


@dataclass(frozen=True)
class CropView:
    """One crop of one image, as the encoder sees it.

    Attributes:
        crop: Which part of the image.
        image_size: Height and width of the whole image in pixels.
        encoder_size: Side in pixels of the square that the encoder sees.
    """

    crop: Crop
    image_size: tuple[int, int]
    encoder_size: int

    @property
    def valid_size(self) -> tuple[int, int]:
        """Height and width of the crop within that square; the rest is padding."""
        return input_size(*self.crop.size, self.encoder_size)

    @property
    def pixels_per_mask(self) -> int:
        """Pixels that one mask takes while it is upsampled: those of the encoder's square, or the whole image's."""
        return max(self.encoder_size**2, self.image_size[0] * self.image_size[1])

    def crop_valid(self, logits: Tensor) -> Tensor:
        """Return low-resolution logits (K, h, w) without those of the padding."""
        rows, columns = (math.ceil(side * logits.shape[-1] / self.encoder_size) for side in self.valid_size)
        return logits[:, :rows, :columns]

    def upsampled(self, logits: Tensor) -> Tensor:
        """Return low-resolution logits (K, h, w) at the size of the crop, (K, H, W) float32."""
        return upsample(
            logits.float(), encoder_size=self.encoder_size, valid_size=self.valid_size, original_size=self.crop.size
        )


@dataclass(frozen=True)
class Candidates:
    """K candidate masks of one view.

    Attributes:
        logits: (K, h, w): in low resolution.
        predicted_iou: (K) float32.
        stability: (K) float32.
        boxes: (K, 4) int64, in pixels of the image; right and bottom inclusive.
    """

    logits: Tensor
    predicted_iou: Tensor
    stability: Tensor
    boxes: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, indices: Tensor) -> Candidates:
        """Return those at the given indices, or where a bool tensor is true."""
        return Candidates(
            self.logits[indices], self.predicted_iou[indices], self.stability[indices], self.boxes[indices]
        )


def concat(parts: Sequence[Candidates]) -> Candidates:
    """Concatenate candidates of one view; there must be at least one part."""
    if len(parts) == 1:
        return parts[0]
    return Candidates(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.predicted_iou for part in parts]),
        torch.cat([part.stability for part in parts]),
        torch.cat([part.boxes for part in parts]),
    )


_NEAR = 20
"""Pixels within which a mask's edge counts as the crop's (segment_anything's `is_box_near_crop_edge`)."""


class Measures(NamedTuple):
    """Stability scores and boxes of K masks.

    Attributes:
        stability: (K) float32: stability score; NaN where both masks that it compares are empty.
        boxes: (K, 4) int64; right is less than left where the mask is empty.
    """

    stability: Tensor
    boxes: Tensor


def measure(logits: Tensor, offset: float) -> Measures:
    """Measure masks by their logits (K, H, W).

    The stability score is the IoU of the masks above `MASK_THRESHOLD` + `offset` and − `offset`; the former lies within
    the latter.
    """
    inner, outer = (_count_above(logits, MASK_THRESHOLD + shift) for shift in (offset, -offset))
    columns, rows = logits.amax(dim=1) > MASK_THRESHOLD, logits.amax(dim=2) > MASK_THRESHOLD
    return Measures(inner / outer, inclusive_boxes(columns, rows))


def _count_above(logits: Tensor, threshold: float) -> Tensor:
    if logits.device.type == "cpu":
        # NumPy compares and counts several times as fast as torch does on a CPU.
        return torch.tensor([np.count_nonzero(mask) for mask in logits.numpy() > threshold], dtype=torch.int32)
    return (logits > threshold).sum(dim=(1, 2), dtype=torch.int32)


def inclusive_boxes(columns: Tensor, rows: Tensor) -> Tensor:
    """Return the boxes (K, 4) int64 of masks by which columns (K, W) and rows (K, H) have any of their pixels, bool.

    Right and bottom are those of the last pixel; the box of an empty mask is W, H, −1, −1.
    """
    (left, right), (top, bottom) = _first_and_last(columns), _first_and_last(rows)
    return torch.stack([left, top, right, bottom], dim=1)


def _first_and_last(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of the first and last true entry of each row (K, L); where there is none, L and −1."""
    length = occupied.shape[1]
    indices = torch.arange(length, device=occupied.device)
    return torch.where(occupied, indices, length).amin(dim=1), torch.where(occupied, indices, -1).amax(dim=1)


def near_crop_edge(boxes: Tensor, crop: Crop, image_size: tuple[int, int]) -> Tensor:
    """Return which boxes (K, 4), in pixels of the image, end near an edge of the crop that is no edge of the image."""
    height, width = image_size
    crop_edges = boxes.new_tensor([crop.left, crop.top, crop.right, crop.bottom])
    image_edges = boxes.new_tensor([0, 0, width, height])
    return (((boxes - crop_edges).abs() <= _NEAR) & ((boxes - image_edges).abs() > _NEAR)).any(dim=1)


def box_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices of the boxes (K, 4) that remain after non-maximum suppression by group, best first."""
    indices: Tensor = batched_nms(boxes.float(), scores.float(), groups, iou_threshold)
    return indices


def mask_nms(masks: Tensor, iou_threshold: float, block_size: int | None = None) -> Tensor:
    """Return the indices of the masks that remain after non-maximum suppression by the IoU of the masks themselves.

    Args:
        masks: bool (K, h, w), best first.
        iou_threshold: Of two masks with a higher IoU, the better one remains.
        block_size: Masks that are converted to floats and compared at once; None: all.
    """
    blocks = masks.flatten(1).split(block_size or max(1, len(masks)))
    # Products of 0 and 1 are exact, so the comparison is the same on every device and in blocks of any size.
    shared = torch.cat([torch.cat([a.float() @ b.float().T for b in blocks], dim=1) for a in blocks])
    areas = shared.diagonal()
    suppresses = (shared > iou_threshold * (areas[:, None] + areas[None] - shared)).cpu().numpy()
    remaining: list[int] = []
    for index in range(len(masks)):
        if not suppresses[index, remaining].any():
            remaining.append(index)
    return torch.tensor(remaining, dtype=torch.int64, device=masks.device)


_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.bool_)
"""Pixels that touch at a corner are of one region."""


def remove_small_regions(mask: NDArray[np.bool_], area: int) -> tuple[NDArray[np.bool_], bool]:
    """Fill the holes of a mask (H, W) of fewer than `area` pixels, then remove its islands of fewer.

    Where all islands are that small, the largest stays: segment_anything's function of this name, without OpenCV.

    Returns:
        The mask, and whether it has changed.
    """
    holes, small_holes, _ = _regions(~mask, area)
    filled = mask | np.isin(holes, small_holes)
    islands, small_islands, largest = _regions(filled, area)
    if small_islands.size:
        large_islands = np.setdiff1d(np.arange(1, int(islands.max()) + 1), small_islands)
        filled = np.isin(islands, large_islands if large_islands.size else largest)
    return filled, bool(small_holes.size or small_islands.size)


def _regions(mask: NDArray[np.bool_], area: int) -> tuple[NDArray[np.int32], NDArray[np.int64], int]:
    """Return a mask's regions labelled from 1, the labels of those of fewer than `area` pixels, and of the largest."""
    labels, count = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return labels, np.flatnonzero(areas < area) + 1, int(areas.argmax()) + 1 if count else 0
