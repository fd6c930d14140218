"""Painting on the canvas: albedo is planar, (3, side, side), since whole planes are fastest to work on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.world.canvas import Patch

Plane = NDArray[np.float32]
"""One value per sample (side, side)."""

Planes = NDArray[np.float32]
"""Red, green and blue per sample (3, side, side)."""

Colour = NDArray[np.float64]
"""Albedo (3,) between 0 and 1."""


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
