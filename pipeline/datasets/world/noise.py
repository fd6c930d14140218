"""Natural-looking random fields: one periodic tile per roughness, of which every scene cuts its own window."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_TILE = 1024
_SEED = 20240229


@cache
def _tile(roughness: float) -> NDArray[np.float32]:
    """Return a periodic field with power spectrum 1/f^(2·roughness), mean 0, standard deviation 1."""
    generator = np.random.default_rng([_SEED, round(roughness * 1000)])
    white = np.fft.rfft2(generator.standard_normal((_TILE, _TILE)))
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None, :])
    # Nothing longer than a quarter tile: a window would show it as a plain ramp.
    frequency[frequency < 4 / _TILE] = np.inf
    field = np.fft.irfft2(white / frequency**roughness, s=(_TILE, _TILE))
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
