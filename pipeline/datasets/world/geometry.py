"""Plane geometry, the canvas on which a scene is drawn, random fields, and painting on the canvas.

Geometry is in metres: x to the right, y downwards, (0, 0) the picture's top left corner. The canvas is finer than the
picture and has a margin for misregistration. Albedo is planar, (3, side, side), since whole planes are fastest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from shapely import Polygon

from pipeline.datasets.world.elementary import arctan2, cos, hypot, power, sin

Label = TypeVar("Label", bound=np.generic)
Mask = NDArray[np.bool_]

Points = NDArray[np.float64]
"""Points (n, 2) in metres."""

Plane = NDArray[np.float32]
"""One value per sample (side, side)."""

Planes = NDArray[np.float32]
"""Red, green and blue per sample (3, side, side)."""

Colour = NDArray[np.float64]
"""Albedo (3,) between 0 and 1."""


def direction(angle: float) -> Points:
    """Return the unit vector (2,) at `angle` radians from the x axis towards y."""
    return np.array([cos(angle), sin(angle)])


def rectangle(centre: Points, length: float, width: float, angle: float) -> Points:
    """Return the corners (4, 2) of a rectangle whose `length` runs along `angle`."""
    along, across = direction(angle) * length / 2, direction(angle + np.pi / 2) * width / 2
    return np.stack(
        [centre - along - across, centre + along - across, centre + along + across, centre - along + across]
    )


def blob(generator: np.random.Generator, centre: Points, radius: float, *, stretch: float, wobble: float) -> Points:
    """Return an organic outline (48, 2): an ellipse, turned at random, with a few smooth bumps.

    Args:
        generator: Random generator.
        centre: Centre (2,).
        radius: Mean radius in metres.
        stretch: Ratio of the long to the short axis.
        wobble: Height of the bumps as a share of the radius.
    """
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    bumps = np.zeros_like(turn)
    for order in range(2, 6):
        bumps += generator.normal(0, 1 / order) * cos(order * turn + generator.uniform(0, 2 * np.pi))
    distance = radius * np.clip(1 + wobble * bumps, 0.4, 1.8)
    shape = np.stack([cos(turn) * distance * np.sqrt(stretch), sin(turn) * distance / np.sqrt(stretch)], axis=1)
    angle = generator.uniform(0, np.pi)
    along, across = direction(angle), direction(angle + np.pi / 2)
    outline: Points = centre + shape[:, :1] * along + shape[:, 1:] * across
    return outline


def smooth_curve(controls: Points, count: int = 33) -> Points:
    """Return `count` points of the Bézier curve with the given control points (3 or 4, 2)."""
    t = np.linspace(0, 1, count)[:, None]
    rest = 1 - t
    if len(controls) == 3:
        weights = [rest * rest, 2 * t * rest, t * t]
    else:
        weights = [rest * rest * rest, 3 * t * rest * rest, 3 * t * t * rest, t * t * t]
    curve: Points = sum(weight * control for weight, control in zip(weights, controls, strict=True))
    return curve


def arc_lengths(line: Points) -> NDArray[np.float64]:
    """Return the distance along a polyline of each of its points."""
    return np.concatenate([[0.0], np.cumsum(hypot(*np.diff(line, axis=0).T))])


def along_line(line: Points, distance: float) -> tuple[Points, float]:
    """Return the point at `distance` metres along a polyline and the line's angle there."""
    lengths = arc_lengths(line)
    index = int(np.clip(np.searchsorted(lengths, distance) - 1, 0, len(line) - 2))
    step = line[index + 1] - line[index]
    share = (distance - lengths[index]) / (lengths[index + 1] - lengths[index])
    return line[index] + share * step, float(arctan2(step[1], step[0]))


def band(line: Points, width: float) -> Polygon:
    """Return the polygon of all points within `width`/2 of a polyline, with flat ends."""
    return shapely.LineString(line).buffer(width / 2, cap_style="flat", join_style="round", quad_segs=4)


def rings(shape: Polygon) -> list[Points]:
    """Return the outer outlines (n, 2) of a polygon or of each part of a multipolygon."""
    polygons = shapely.get_parts(shape)
    return [np.asarray(ring.exterior.coords) for ring in polygons if isinstance(ring, Polygon) and not ring.is_empty]


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
        """Convert metres into sample coordinates; sample i covers i to i + 1."""
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


_TILE = 1024
_SEED = 20240229


@cache
def _tile(roughness: float) -> NDArray[np.float32]:
    """Return a periodic field with power spectrum 1/f^(2·roughness), mean 0, standard deviation 1."""
    generator = np.random.default_rng([_SEED, round(roughness * 1000)])
    white = np.fft.rfft2(generator.standard_normal((_TILE, _TILE)))
    frequency = hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None, :])
    # Nothing longer than a quarter tile: a window would show it as a plain ramp.
    frequency[frequency < 4 / _TILE] = np.inf
    field = np.fft.irfft2(white / power(frequency, roughness), s=(_TILE, _TILE))
    field = (field - field.mean()) / field.std()
    tile: NDArray[np.float32] = field.astype(np.float32)
    return tile


def random_field(generator: np.random.Generator, size: int, roughness: float) -> NDArray[np.float32]:
    """Return a random field (size, size), mean about 0, deviation about 1.

    Args:
        generator: Chooses the window.
        size: Width and height in samples, at most 1024.
        roughness: Slope of the amplitude spectrum: 0 is white noise, 1 grain, 2 clouds.
    """
    tile = _tile(roughness)
    top, left = generator.integers(0, _TILE, 2)
    rows = (np.arange(size) + top) % _TILE
    columns = (np.arange(size) + left) % _TILE
    # Two takes are several times faster than one pick of single samples.
    window = tile.take(rows, axis=0).take(columns, axis=1)
    turned: NDArray[np.float32] = window.T.copy() if generator.random() < 0.5 else window
    return turned


def fill(albedo: Planes, patch: Patch, colour: Colour, texture: Plane | None = None, strength: float = 0.0) -> None:
    """Paint a patch in a colour, varied by ± `strength` times a texture of deviation 1."""
    window = albedo[:, patch.rows, patch.columns]
    plain = colour.astype(np.float32)[:, None]
    if texture is None:
        window[:, patch.mask] = plain
    else:
        window[:, patch.mask] = plain * (1 + np.float32(strength) * texture[patch.window][patch.mask])


def glaze(albedo: Planes, patch: Patch, grey: float, share: float) -> None:
    """Blend a patch towards a grey, by a share between 0 and 1."""
    window = albedo[:, patch.rows, patch.columns]
    window[:, patch.mask] = window[:, patch.mask] * np.float32(1 - share) + np.float32(share * grey)


def mix(first: Planes | Colour, second: Colour, share: Plane) -> Planes:
    """Return `first` where `share` is 0 and `second` where it is 1, plane by plane."""
    return np.stack([a + (np.float32(b) - a) * share for a, b in zip(first.astype(np.float32), second, strict=True)])
