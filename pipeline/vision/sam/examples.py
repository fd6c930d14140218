"""Images with their segments, and the prompts drawn from them: what a SAM is trained on.

A prompt may mean its object or the larger surface that the object is part of, as a point on a road may mean this road
or the whole network; so every prompt has two targets. Each is given by a map of segment numbers, in which every pixel
is of one segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

_EVERY_SIDE = np.ones((3, 3), dtype=np.bool_)
_SMALLEST = 8
"""Segments of fewer pixels are not asked for."""
_POPULARITY = 0.2
"""A segment is drawn in proportion to its area to this power: between once per segment and once per pixel."""
_BOX_JITTER = 0.1
"""Standard deviation of a box's edges as a share of its sides (SAM, arXiv 2304.02643, appendix A)."""


@dataclass(frozen=True)
class SegmentedImages:
    """Images with the numbers of their segments, as tensors.

    Attributes:
        images: (N, 3, H, W) uint8.
        land_cover: (N, H, W) uint8 class indices.
        segments: (N, H, W) int16: positive numbers are objects, negative ones are connected parts of open ground.
        surfaces: (N, H, W) int16: connected parts of one land-cover class, whatever objects they are made of.
    """

    images: Tensor
    land_cover: Tensor
    segments: Tensor
    surfaces: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor | slice) -> SegmentedImages:
        """Return the images at `rows`."""
        return SegmentedImages(self.images[rows], self.land_cover[rows], self.segments[rows], self.surfaces[rows])

    def turned(self, quarter_turns: int, mirrored: bool) -> SegmentedImages:
        """Return the images rotated by quarter turns and, if asked, mirrored: overhead images have no up."""

        def turn(x: Tensor) -> Tensor:
            x = torch.rot90(x, quarter_turns, (-2, -1))
            return (x.flip(-1) if mirrored else x).contiguous()

        return SegmentedImages(turn(self.images), turn(self.land_cover), turn(self.segments), turn(self.surfaces))


@dataclass(frozen=True)
class Prompted:
    """A batch: images, and as many prompts on each.

    Attributes:
        pixels: (B, 3, H, W) float32, 0–255, colours changed a little.
        land_cover: (B, H, W) uint8.
        segments: (B, H, W) int16.
        boxes: (B, Q, 4) float32: left, top, right, bottom; jittered.
        points: (B, P, 2) int64: column and row.
        targets: (B, Q + P, 2, H, W) bool: segment and surface that each prompt means, boxes before points.
    """

    pixels: Tensor
    land_cover: Tensor
    segments: Tensor
    boxes: Tensor
    points: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Prompted:
        """Return the batch on `device`."""
        return Prompted(*(tensor.to(device) for tensor in vars(self).values()))


def segment(
    instances: NDArray[np.integer], land_cover: NDArray[np.uint8]
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Number the segments and surfaces of an image.

    Args:
        instances: (H, W): object numbers, 0 for open ground.
        land_cover: (H, W): class indices.

    Returns:
        Segments and surfaces as `SegmentedImages` has them. Parts of open ground are connected by their sides, so that
        a path one pixel wide parts them; surfaces by sides or corners.
    """
    _, objects = np.unique(instances, return_inverse=True)
    # Without open ground the lowest number is an object's.
    segments = (objects.reshape(instances.shape) + (0 if (instances == 0).any() else 1)).astype(np.int16)
    surfaces = np.zeros(instances.shape, dtype=np.int16)
    parts = areas = 0
    for value in np.unique(land_cover):
        ground, count = ndimage.label((land_cover == value) & (instances == 0))
        segments[ground > 0] = -(ground[ground > 0] + parts)
        parts += count
        ground, count = ndimage.label(land_cover == value, structure=_EVERY_SIDE)
        surfaces[ground > 0] = ground[ground > 0] + areas
        areas += count
    return segments, surfaces


def batches(
    images: SegmentedImages, size: int, points: int, boxes: int, rng: np.random.Generator
) -> Iterator[Prompted]:
    """Yield shuffled batches with freshly drawn prompts, turned and mirrored at random; a short last one is left out.

    Args:
        images: What to draw from.
        size: Images per batch.
        points: Prompts of one point, per image.
        boxes: Prompts of one box, per image.
        rng: Source of all that is random.
    """
    order = torch.from_numpy(rng.permutation(len(images)))
    for start in range(0, len(images) - size + 1, size):
        part = images.take(order[start : start + size]).turned(int(rng.integers(4)), bool(rng.integers(2)))
        yield prompted(part, points, boxes, rng)


def prompted(images: SegmentedImages, points: int, boxes: int, rng: np.random.Generator) -> Prompted:
    """Draw prompts on images, and change their colours a little."""
    count, _, height, width = images.images.shape
    pixels = torch.from_numpy(np.stack([_draw_pixels(part, boxes + points, rng) for part in images.segments.numpy()]))
    each, flat = torch.arange(count)[:, None], pixels
    segments, surfaces = images.segments.flatten(1), images.surfaces.flatten(1)
    targets = torch.stack(
        [
            images.segments[:, None] == segments[each, flat][..., None, None],
            images.surfaces[:, None] == surfaces[each, flat][..., None, None],
        ],
        dim=2,
    )
    exact = boxes_of(targets[:, :boxes, 0].flatten(0, 1)).unflatten(0, (count, boxes))
    sides = (exact[..., 2:] - exact[..., :2]).repeat(1, 1, 2)
    jittered = exact + torch.from_numpy(rng.normal(0, _BOX_JITTER, exact.shape)).float() * sides
    gain = rng.uniform(0.85, 1.15, (count, 3, 1, 1)).astype(np.float32)
    offset = rng.uniform(-12, 12, (count, 1, 1, 1)).astype(np.float32)
    return Prompted(
        pixels=images.images.float() * torch.from_numpy(gain) + torch.from_numpy(offset),
        land_cover=images.land_cover,
        segments=images.segments,
        boxes=jittered.clamp(0, max(height, width)),
        points=torch.stack([flat[:, boxes:] % width, flat[:, boxes:] // width], dim=-1),
        targets=targets,
    )


def boxes_of(masks: Tensor) -> Tensor:
    """Return the boxes (K, 4) float32 of masks (K, H, W) bool: left, top, right, bottom, the last two exclusive."""
    columns, rows = masks.any(1).int(), masks.any(2).int()
    left, top = columns.argmax(1), rows.argmax(1)
    right, bottom = columns.shape[1] - columns.flip(1).argmax(1), rows.shape[1] - rows.flip(1).argmax(1)
    return torch.stack([left, top, right, bottom], dim=1).float()


def _draw_pixels(segments: NDArray[np.int16], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return `count` pixels as indices into the flattened image: a segment each, and a pixel anywhere within it."""
    flat = segments.ravel()
    numbers, areas = np.unique(flat, return_counts=True)
    weight = np.where(areas >= _SMALLEST, areas, 0) ** _POPULARITY
    drawn = rng.choice(len(numbers), count, p=weight / weight.sum())
    places = rng.random(count)
    inside = [np.flatnonzero(flat == numbers[row]) for row in drawn]
    return np.array(
        [pixels[int(place * len(pixels))] for pixels, place in zip(inside, places, strict=True)], dtype=np.int64
    )
