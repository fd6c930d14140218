"""The grid on which a scene is drawn: finer than the picture, with a margin for misregistration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from shapely import Polygon

from pipeline.datasets.world.geometry import Points, rings

Label = TypeVar("Label", bound=np.generic)
Mask = NDArray[np.bool_]

MARGIN_PIXELS = 4
"""Picture pixels drawn beyond each edge; misregistration is smaller."""


@dataclass(frozen=True)
class Patch:
    """A mask within a window of the canvas: rows and columns as slices, and the mask (rows, columns)."""

    rows: slice
    columns: slice
    mask: Mask

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of the window in a canvas array."""
        return self.rows, self.columns


@dataclass(frozen=True)
class Canvas:
    """The drawing grid of pictures of `size` pixels at `metres_per_pixel`.

    Every picture pixel is `fine` × `fine` samples; `fine` is odd at coarse resolutions, so that label maps can take
    the sample at a pixel's centre.
    """

    size: int
    metres_per_pixel: float

    @property
    def fine(self) -> int:
        """Samples per picture pixel along each axis."""
        return 3 if self.metres_per_pixel >= 0.75 else 2

    @property
    def side(self) -> int:
        """Width and height of the canvas in samples, margin included."""
        return (self.size + 2 * MARGIN_PIXELS) * self.fine

    @property
    def samples_per_metre(self) -> float:
        """Samples along one metre."""
        return self.fine / self.metres_per_pixel

    def to_samples(self, points: Points) -> Points:
        """Turn metres into sample coordinates; sample i covers i to i + 1."""
        return points * self.samples_per_metre + MARGIN_PIXELS * self.fine

    def centres(self, rows: slice, columns: slice) -> tuple[Points, Points]:
        """Return x (1, columns) and y (rows, 1) in metres of the samples' centres in a window."""
        offset = MARGIN_PIXELS * self.fine - 0.5
        x = (np.arange(columns.start, columns.stop) - offset) / self.samples_per_metre
        y = (np.arange(rows.start, rows.stop) - offset) / self.samples_per_metre
        return x[None, :], y[:, None]

    def window(self, low: Points, high: Points) -> tuple[slice, slice]:
        """Return rows and columns of the samples between two corners in metres, cut to the canvas."""
        first = np.clip(np.floor(self.to_samples(low)).astype(int), 0, self.side)
        last = np.clip(np.ceil(self.to_samples(high)).astype(int) + 1, 0, self.side)
        return slice(int(first[1]), int(last[1])), slice(int(first[0]), int(last[0]))

    def patch(self, shape: Polygon) -> Patch:
        """Rasterise the outer outlines of a polygon."""
        left, top, right, bottom = shape.bounds
        rows, columns = self.window(np.array([left, top]), np.array([right, bottom]))
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if height <= 0 or width <= 0:
            return Patch(slice(0, 0), slice(0, 0), np.zeros((0, 0), dtype=np.bool_))
        image = Image.new("L", (width, height))
        draw = ImageDraw.Draw(image)
        # PIL counts coordinates from sample centres.
        offset = np.array([columns.start, rows.start]) + 0.5
        for ring in rings(shape):
            draw.polygon([tuple(point) for point in (self.to_samples(ring) - offset).tolist()], fill=1)
        return Patch(rows, columns, np.asarray(image).view(np.bool_))

    def at_pixels(self, samples: NDArray[Label]) -> NDArray[Label]:
        """Return the picture's pixels (size, size) of a canvas array, each from the sample at its centre."""
        start = MARGIN_PIXELS * self.fine + self.fine // 2
        stop = start + (self.size - 1) * self.fine + 1
        return np.ascontiguousarray(samples[start : stop : self.fine, start : stop : self.fine])
