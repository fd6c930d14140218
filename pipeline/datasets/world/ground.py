"""The open ground of a place: soil, grass, bushes and tracks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pipeline.datasets.world.canvas import Canvas, Mask
from pipeline.datasets.world.classes import BARELAND
from pipeline.datasets.world.geometry import direction, smooth_curve
from pipeline.datasets.world.labels import DrawnDate
from pipeline.datasets.world.light import Acquisition
from pipeline.datasets.world.markings import draw_lines
from pipeline.datasets.world.noise import random_field
from pipeline.datasets.world.pigments import Colour, Plane, Planes, mix

_SOILS = np.array([[0.72, 0.65, 0.53], [0.78, 0.73, 0.62], [0.66, 0.58, 0.47], [0.74, 0.66, 0.55]])
_DRY_GRASS = np.array([[0.47, 0.42, 0.32], [0.42, 0.39, 0.31], [0.50, 0.45, 0.33]])
_LUSH_GRASS = np.array([[0.30, 0.36, 0.22], [0.34, 0.39, 0.25], [0.28, 0.33, 0.22]])
_BUSH = np.array([0.20, 0.22, 0.14])


@dataclass(frozen=True)
class Materials:
    """What the ground of one place is made of, the same at both dates.

    Attributes:
        soil: Albedo of bare ground.
        dry_grass: Albedo of grass in the dry season.
        lush_grass: Albedo of grass in the green season.
        cloud: Smooth field that varies the ground over tens of metres.
        grain: Field that varies it over metres.
        speck: Field of single samples.
        bushes: Where low bushes grow, which are part of the open ground.
        track: Where feet and wheels have worn the ground.
    """

    soil: Colour
    dry_grass: Colour
    lush_grass: Colour
    cloud: Plane
    grain: Plane
    speck: Plane
    bushes: Mask
    track: Mask | None

    def grass(self, season: float) -> Colour:
        """Return the albedo of grass between the dry (0) and the green season (1)."""
        return self.dry_grass * (1 - season) + self.lush_grass * season


def draw_materials(generator: np.random.Generator, canvas: Canvas) -> Materials:
    """Draw the materials of a place."""
    kind = generator.integers(len(_DRY_GRASS))
    grain = random_field(generator, canvas.side, 0.9)
    thickets = random_field(generator, canvas.side, 1.1)
    return Materials(
        soil=_SOILS[generator.integers(len(_SOILS))] + generator.normal(0, 0.012, 3),
        dry_grass=_DRY_GRASS[kind],
        lush_grass=_LUSH_GRASS[kind],
        cloud=random_field(generator, canvas.side, 1.6),
        grain=grain,
        speck=random_field(generator, canvas.side, 0.4),
        bushes=thickets + 0.5 * grain > generator.uniform(2.3, 4.0),
        track=_track(generator, canvas) if generator.random() < 0.4 else None,
    )


def _track(generator: np.random.Generator, canvas: Canvas) -> Mask:
    extent = canvas.size * canvas.metres_per_pixel
    middle, heading = generator.uniform(0.2, 0.8, 2) * extent, generator.uniform(0, np.pi)
    reach, swing = (
        direction(heading) * extent,
        direction(heading + np.pi / 2) * generator.normal(0, 0.3, 2)[:, None] * extent,
    )
    curve = smooth_curve(np.stack([middle - reach, middle + swing[0], middle + swing[1], middle + reach]))
    wheels = direction(heading + np.pi / 2) * generator.uniform(0.8, 1.2)
    return draw_lines(canvas, np.stack([curve - wheels, curve + wheels]), 0.7)


def open_ground(drawn: DrawnDate, base: int, materials: Materials, acquisition: Acquisition, canvas: Canvas) -> Planes:
    """Return the albedo (3, side, side) of the ground before anything is built on it."""
    patches = [(surface, patch) for surface, patch in drawn.surfaces if surface.kind in ("clearing", "meadow")]
    vary = 1 + np.float32(0.06) * materials.grain + np.float32(0.075) * materials.speck
    bare: Plane | float = float(base == BARELAND)
    if patches:
        share = np.full(vary.shape, bare, dtype=np.float32)
        for surface, patch in patches:
            share[patch.window][patch.mask] = float(surface.kind == "clearing")
        # Grass frays into bare ground over a few metres instead of ending at a line.
        share = ndimage.uniform_filter(share, 2 * int(1.6 * canvas.samples_per_metre) + 1)
        share += np.float32(0.15) * materials.grain + np.float32(0.08) * materials.cloud
        bare = np.clip((share - 0.5) * 2.5 + 0.5, 0, 1)
    soil = materials.soil * (1 - 0.04 * (acquisition.season - 0.5))
    if isinstance(bare, float) and bare == 1:
        ground = np.stack([np.float32(channel) * (1 + np.float32(0.05) * materials.cloud) for channel in soil])
    else:
        lushness = np.clip(np.float32(0.22) * materials.cloud + np.float32(acquisition.season), 0, 1)
        ground = mix(materials.dry_grass, materials.lush_grass, lushness)
        if patches:
            ground = mix(ground, soil, np.asarray(bare))
    ground *= vary
    if materials.track is not None:
        ground[:, materials.track] = ground[:, materials.track] * 0.65 + soil.astype(np.float32)[:, None] * 0.33
    ground[:, materials.bushes] = ground[:, materials.bushes] * 0.4 + _BUSH.astype(np.float32)[:, None] * 0.6
    return ground
