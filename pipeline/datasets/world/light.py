"""Sun and camera: the conditions of an acquisition, its shadows and its exposure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

from pipeline.datasets.world.elementary import cos, exp, sin, tan
from pipeline.datasets.world.geometry import MARGIN_PIXELS, Canvas, Plane, Planes, random_field
from pipeline.datasets.world.settings import NuisanceSettings


@dataclass(frozen=True)
class Acquisition:
    """The conditions of one acquisition.

    Attributes:
        azimuth: Direction in radians into which shadows fall, x to the right, y downwards.
        elevation: The sun's height above the horizon in radians.
        season: From 0, dry and brown, to 1, lush and green.
        ambient: Share of light that reaches shadows.
        exposure: Factor on brightness.
        cast: Factor per colour channel (3,).
        contrast: Factor on contrast around middle grey.
        haze: Share of the picture that is white haze.
        blur: Standard deviation of the optics' blur in picture pixels.
        noise: Standard deviation of the sensor's noise in grey levels.
        shift: Misregistration (x, y) in picture pixels.
    """

    azimuth: float
    elevation: float
    season: float
    ambient: float
    exposure: float
    cast: NDArray[np.float64]
    contrast: float
    haze: float
    blur: float
    noise: float
    shift: tuple[float, float]


def draw_acquisitions(generator: np.random.Generator, nuisances: NuisanceSettings) -> tuple[Acquisition, Acquisition]:
    """Draw the conditions of both dates, which differ by the strength of each nuisance."""
    azimuth, elevation = -np.pi / 2 + generator.normal(0, 0.5), generator.uniform(0.75, 1.0)
    season, exposure = generator.uniform(0.2, 0.8), generator.uniform(0.88, 1.05)
    radius, turn = nuisances.shift_pixels / 2 * np.sqrt(generator.random()), generator.uniform(0, 2 * np.pi)
    shift = (radius * cos(turn), radius * sin(turn))
    dates = []
    for sign in (-1, 1):
        light, sun = nuisances.light, nuisances.sun
        dates.append(
            Acquisition(
                azimuth=azimuth + sun * float(generator.normal(0, 0.45)),
                elevation=float(np.clip(elevation + sun * generator.normal(0, 0.15), 0.55, 1.25)),
                season=float(np.clip(season + nuisances.season * generator.normal(0, 0.35), 0, 1)),
                ambient=0.42 + light * float(generator.uniform(-0.08, 0.08)),
                exposure=exposure * float(exp(light * np.clip(generator.normal(0, 0.12), -0.24, 0.2))),
                cast=exp(light * generator.normal(0, 0.03, 3)),
                contrast=float(exp(light * generator.normal(0, 0.1))),
                haze=light * float(generator.uniform(0, 0.1)),
                blur=0.15 + nuisances.noise * float(generator.uniform(0, 0.35)),
                noise=nuisances.noise * float(generator.uniform(0.6, 2.6)),
                shift=(sign * shift[0], sign * shift[1]),
            )
        )
    return dates[0], dates[1]


def shadows(height: Plane, acquisition: Acquisition, metres_per_sample: float) -> Plane:
    """Return the share of sunlight (side, side) that each sample loses to shadows.

    Args:
        height: Height above ground in metres.
        acquisition: Position of the sun.
        metres_per_sample: Spacing of the samples.
    """
    drop = tan(acquisition.elevation) * metres_per_sample
    steps = int(np.ceil(min(float(height.max()) / drop, 24 / metres_per_sample)))
    step_x, step_y = cos(acquisition.azimuth), sin(acquisition.azimuth)
    ceiling = np.zeros_like(height)
    side = len(height)
    # Every other sample: nothing that casts a shadow is thinner.
    for step in range(1, steps + 1, 2):
        dx, dy = round(step_x * step), round(step_y * step)
        target = (slice(max(dy, 0), side + min(dy, 0)), slice(max(dx, 0), side + min(dx, 0)))
        source = (slice(max(-dy, 0), side + min(-dy, 0)), slice(max(-dx, 0), side + min(-dx, 0)))
        np.maximum(ceiling[target], height[source] - np.float32(step * drop), out=ceiling[target])
    shade = (ceiling > height + 0.25).astype(np.float32)
    soft: Plane = ndimage.uniform_filter(shade, 3)
    return soft


def slope_light(facing: Plane, pitch: Plane, acquisition: Acquisition) -> Plane:
    """Return the sunlight on a slope relative to flat ground (Lambert's cosine law)."""
    # The sun stands opposite to where shadows fall.
    towards = cos(facing - np.float32(acquisition.azimuth + np.pi))
    light: Plane = cos(pitch) + sin(pitch) * towards / np.float32(tan(acquisition.elevation))
    return light


def expose(
    radiance: Planes, acquisition: Acquisition, canvas: Canvas, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the picture of a camera: exposure, colour cast, haze, misregistration, blur and noise.

    Args:
        radiance: Canvas (3, side, side), about 0 to 1.
        acquisition: The conditions.
        canvas: Its grid.
        generator: Source of the noise.

    Returns:
        The picture (size, size, 3).
    """
    middle, veil = 0.42, 0.75
    slope = acquisition.contrast * (1 - acquisition.haze) * 255
    offset = (middle * (1 - acquisition.contrast) * (1 - acquisition.haze) + veil * acquisition.haze) * 255 + 0.5
    levels = np.empty((canvas.side, canvas.side, 3), dtype=np.uint8)
    for channel, cast in enumerate(acquisition.cast):
        plane = radiance[channel] * np.float32(acquisition.exposure * cast * slope) + np.float32(offset)
        levels[..., channel] = np.clip(plane, 0, 255, out=plane)
    start = MARGIN_PIXELS * canvas.fine
    stop = start + canvas.size * canvas.fine
    dx, dy = acquisition.shift[0] * canvas.fine, acquisition.shift[1] * canvas.fine
    picture = Image.fromarray(levels).resize(
        (canvas.size, canvas.size), Image.Resampling.HAMMING, box=(start + dx, start + dy, stop + dx, stop + dy)
    )
    picture = picture.filter(ImageFilter.GaussianBlur(acquisition.blur))
    pixels = np.asarray(picture).astype(np.float32)
    grain = random_field(generator, canvas.size, 0.0)[..., None]
    colour_grain = np.stack([random_field(generator, canvas.size, 0.0) for _ in range(3)], axis=-1)
    pixels += np.float32(acquisition.noise) * (0.8 * grain + 0.4 * colour_grain)
    exposed: NDArray[np.uint8] = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    return exposed
