"""Groves, single trees and patches of open ground."""

from __future__ import annotations

import numpy as np
import shapely
from shapely import Polygon

from pipeline.datasets.world.canvas import Mask
from pipeline.datasets.world.classes import GRASSLAND
from pipeline.datasets.world.geometry import Points, blob, direction
from pipeline.datasets.world.scene import OPEN_GROUND, STAYS, Crown, Dates, Surface, SurfaceKind
from pipeline.datasets.world.site import Site


def add_grove(site: Site, region: Polygon, dates: Dates) -> int:
    """Plant a grove of touching crowns and return its instance number."""
    number = site.number("woods")
    left, top, right, bottom = region.bounds
    spacing = 5.2
    columns, rows = np.meshgrid(np.arange(left, right, spacing), np.arange(top, bottom, spacing * 0.87))
    columns[1::2] += spacing / 2
    points = np.stack([columns.ravel(), rows.ravel()], axis=1)
    points += site.generator.normal(0, 1.0, points.shape)
    reach = site.extent + 6
    points = points[(points > -6).all(axis=1) & (points < reach).all(axis=1)]
    points = points[shapely.contains_xy(region, points) & ~_reserved(site, points)]
    radii = site.generator.uniform(2.6, 4.4, len(points))
    tints = site.generator.normal(0, 1, len(points))
    site.crowns.extend(
        Crown(number, point, float(radius), dates, float(tint))
        for point, radius, tint in zip(points, radii, tints, strict=True)
    )
    return number


def plant(site: Site, *, wooded: bool) -> None:
    """Cover what is left of the site: patches of other ground, groves or woods, single trees, gardens."""
    generator = site.generator
    if generator.random() < 0.5:
        _vary_ground(site)
    if wooded:
        for _ in range(int(generator.integers(1, 4))):
            centre = generator.uniform(0, site.extent, 2)
            outline = blob(generator, centre, generator.uniform(28, 55), stretch=1.3, wobble=0.15)
            add_grove(site, shapely.make_valid(Polygon(outline)), STAYS)
    elif generator.random() < 0.6:
        for _ in range(int(generator.integers(1, 3))):
            column, row = generator.integers(0, 3, 2)
            region = site.free_region((int(column), int(row)), (8, 18))
            if region is not None:
                add_grove(site, region, STAYS)
    _scatter_trees(site, int(generator.choice([4, 12, 28], p=[0.35, 0.4, 0.25])))
    _plant_gardens(site, share=float(generator.choice([0.0, 0.4, 0.8])))


def _reserved(site: Site, points: Points) -> Mask:
    """Say which points (n, 2) lie where an event decides what grows."""
    hit: Mask = np.zeros(len(points), dtype=np.bool_)
    for region in site.reserved:
        hit |= shapely.contains_xy(region, points)
    return hit


def _scatter_trees(site: Site, count: int) -> None:
    generator = site.generator
    points = generator.uniform(0, site.extent, (count, 2))
    for centre in points[~_reserved(site, points)]:
        radius, tint = float(generator.uniform(1.8, 4.4)), float(generator.normal(0, 1))
        site.crowns.append(Crown(site.number("tree"), centre, radius, STAYS, tint))


def _plant_gardens(site: Site, share: float) -> None:
    """Plant a tree beside some of the houses that stand at both dates."""
    generator = site.generator
    for house in site.buildings:
        if house.kind == "house" and house.dates == STAYS and generator.random() < share:
            centre = house.parts[0].centre + direction(generator.uniform(0, 2 * np.pi)) * generator.uniform(8.5, 11)
            radius, tint = float(generator.uniform(1.5, 2.8)), float(generator.normal(0, 1))
            site.crowns.append(Crown(site.number("tree"), centre, radius, STAYS, tint, garden=True))


def _vary_ground(site: Site) -> None:
    """Lay patches: bare spots in grassland, grass in bareland."""
    generator = site.generator
    kind: SurfaceKind = "clearing" if site.base == GRASSLAND else "meadow"
    for _ in range(int(generator.integers(1, 4))):
        centre, radius = generator.uniform(0, site.extent, 2), generator.uniform(10, 38)
        patch = shapely.make_valid(Polygon(blob(generator, centre, radius, stretch=1.6, wobble=0.3)))
        # Patches lie under everything else, so they are painted first.
        site.surfaces.insert(0, Surface(0, kind, (patch, patch), OPEN_GROUND))
