"""Where an image is asked: crops of it, and a grid of points over each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

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
