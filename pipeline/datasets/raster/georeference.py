"""Where an image lies on the ground: bringing its rows north-up, and comparing the grids of two dates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PLAY: Final = 0.5
"""Pixels by which the grids of two dates may differ anywhere: resampling to one grid leaves that much."""


@dataclass(frozen=True)
class Georeference:
    """The grid of an image.

    Attributes:
        crs: Its coordinate system, a `rasterio.crs.CRS`; None if the file names none.
        transform: (a, b, c, d, e, f) of x = a·column + b·row + c and y = d·column + e·row + f, at pixel corners.
        height: Rows.
        width: Columns.
    """

    crs: Any
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The transform as a matrix (3, 3) on (column, row, 1)."""
        return np.array([self.transform[:3], self.transform[3:], (0, 0, 1)], dtype=np.float64)

    @property
    def name(self) -> str:
        """Name of the coordinate system, as short as it can be given."""
        if self.crs is None:
            return "none"
        code = self.crs.to_epsg()
        return f"EPSG:{code}" if code else str(self.crs.to_string())

    def north_up(self) -> tuple[int, Georeference]:
        """Return the Exif orientation that brings the image as near to north-up as turns and flips can, and its grid.

        North-up: columns run east and rows south. A rotation of less than 45° remains.
        """
        a, b, c, d, e, f = self.transform
        height, width = self.height, self.width
        transposed = abs(b) + abs(d) > abs(a) + abs(e)
        if transposed:
            a, b, d, e, height, width = b, a, e, d, width, height
        mirrored, upside_down = a < 0, e > 0
        if mirrored:
            a, d, c, f = -a, -d, c + a * width, f + d * width
        if upside_down:
            b, e, c, f = -b, -e, c + b * height, f + e * height
        orientation = _ORIENTATIONS[transposed, mirrored, upside_down]
        return orientation, Georeference(self.crs, (a, b, c, d, e, f), height, width)

    @property
    def rotation(self) -> float:
        """Angle in degrees between the rows and east, counter-clockwise; of a grid from `north_up`."""
        a, _, _, d, _, _ = self.transform
        return math.degrees(math.atan2(d, a))

    @property
    def is_straight(self) -> bool:
        """Whether rows and columns run along the axes, to within half a pixel from end to end."""
        a, b, _, d, e, _ = self.transform
        return abs(d) * self.width <= PLAY * abs(e) and abs(b) * self.height <= PLAY * abs(a)


_ORIENTATIONS: Final = {
    (False, False, False): 1,
    (False, True, False): 2,
    (False, True, True): 3,
    (False, False, True): 4,
    (True, False, False): 5,
    (True, True, False): 6,
    (True, True, True): 7,
    (True, False, True): 8,
}
"""Exif orientations by: transposed, then columns mirrored, then rows upside down."""


def difference(before: Georeference, after: Georeference) -> str | None:
    """Say how the grids of two images of one size differ; None if no corner is off by more than `PLAY` pixels.

    Coordinate systems of different names are compared by where they put the pixels. An image without one is compared
    by its coordinates alone.
    """
    columns = np.array([0, before.width, 0, before.width], dtype=np.float64)
    rows = np.array([0, 0, before.height, before.height], dtype=np.float64)
    corners = np.stack([columns, rows, np.ones(4)])
    placed = after.matrix @ corners
    parts = []
    if before.crs is not None and after.crs is not None and before.crs != after.crs:
        parts.append(f"their coordinate systems are {before.name} and {after.name}")
        placed[:2] = _reprojected(placed[:2], after.crs, before.crs)
    # A column per corner: how far the later image's corner lies from the earlier one's, in the earlier one's pixels.
    offsets = (np.linalg.inv(before.matrix) @ placed)[:2] - corners[:2]
    if np.isfinite(offsets).all() and np.abs(offsets).max() <= PLAY + 1e-6:
        return None
    if not parts:
        parts = _unlike(before, after, offsets)
    return "; ".join(parts)


def _reprojected(points: NDArray[np.float64], source: Any, target: Any) -> NDArray[np.float64]:
    from rasterio.warp import transform

    try:
        x, y = transform(source, target, points[0].tolist(), points[1].tolist())[:2]
    # GDAL's own errors, which share no public class: a system is not tied to the earth, so the two are not the same.
    except Exception:
        return np.full_like(points, np.nan)
    return np.array([x, y], dtype=np.float64)


def _unlike(before: Georeference, after: Georeference, offsets: NDArray[np.float64]) -> list[str]:
    parts = []
    sizes = [
        (math.hypot(grid[0], grid[3]), math.hypot(grid[1], grid[4])) for grid in (before.transform, after.transform)
    ]
    extent = (before.width, before.height)
    if any(abs(new / old - 1) * side > PLAY for old, new, side in zip(*sizes, extent, strict=True)):
        parts.append("their pixels measure " + " and ".join(f"{x:.6g} × {y:.6g}" for x, y in sizes))
    turn = (after.rotation - before.rotation + 180) % 360 - 180
    if math.radians(abs(turn)) * max(extent) > PLAY:
        parts.append(f"one is turned by {abs(turn):.1f}° against the other")
    # Of grids of different pixels or angles, what their first corners are apart.
    east, south = offsets[:, 0] if parts else offsets.mean(axis=1)
    if not parts or max(abs(east), abs(south)) > max(extent):
        across = f"{abs(east):,.1f} pixels {'right' if east >= 0 else 'left'}"
        down = f"{abs(south):,.1f} {'below' if south >= 0 else 'above'}"
        parts.append(f"the later one lies {across} and {down} of where the earlier one lies")
    return parts
