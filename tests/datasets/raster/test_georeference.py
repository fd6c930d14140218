from __future__ import annotations

from pathlib import Path

import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine

from pipeline.datasets.images import read_image, read_rgb
from pipeline.datasets.raster.georeference import Georeference, difference
from tests.datasets.raster.pictures import PIXELS, tiff

ZONE, OTHER_ZONE = CRS.from_epsg(32636), CRS.from_epsg(32637)
BASE = Affine(2.0, 0.0, 500_000.0, 0.0, -2.0, 4_000_000.0)


def grid(transform: Affine = BASE, crs: CRS | None = ZONE, height: int = 100, width: int = 200) -> Georeference:
    return Georeference(crs, tuple(transform[:6]), height, width)


@pytest.mark.parametrize("columns", [0, 0.25, 0.5, -0.5])
def test_half_a_pixel_of_play(columns: float) -> None:
    assert difference(grid(), grid(BASE * Affine.translation(columns, -columns))) is None


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (BASE * Affine.translation(0.6, 0), "the later one lies 0.6 pixels right and 0.0 below"),
        (BASE * Affine.translation(0, 0.6), "0.0 pixels right and 0.6 below"),
        (BASE * Affine.translation(-500, -30), "500.0 pixels left and 30.0 above"),
        (BASE * Affine.scale(5), "their pixels measure 2 × 2 and 10 × 10"),
        (BASE * Affine.scale(1.01, 1), "their pixels measure 2 × 2 and 2.02 × 2"),
        (BASE * Affine.rotation(-30), "one is turned by 30.0° against the other"),
        (BASE * Affine.translation(9000, 0) * Affine.scale(5), "10 × 10; the later one lies 9,000.0 pixels right"),
    ],
)
def test_other_places_sizes_and_angles(transform: Affine, words: str) -> None:
    assert words in str(difference(grid(), grid(transform)))


def test_pixels_of_almost_one_size_are_compared_over_the_extent() -> None:
    """A hundredth of a percent is nothing over 200 columns and a pixel and a half over 15,000."""
    slightly = BASE * Affine.scale(1.0001)
    assert difference(grid(), grid(slightly)) is None
    assert "measure" in str(difference(grid(width=15_000), grid(slightly, width=15_000)))


def test_another_zone_is_another_place() -> None:
    assert difference(grid(), grid(crs=OTHER_ZONE)) == "their coordinate systems are EPSG:32636 and EPSG:32637"


def test_one_system_under_two_names() -> None:
    renamed = CRS.from_wkt(ZONE.to_wkt().replace("WGS 84 / UTM zone 36N", "my zone").replace('"32636"', '"1"'))
    assert difference(grid(), grid(crs=renamed)) is None
    assert difference(grid(), grid(crs=CRS.from_proj4("+proj=utm +zone=36 +datum=WGS84 +units=m"))) is None


def test_systems_that_nothing_ties_to_the_earth() -> None:
    local = CRS.from_wkt('LOCAL_CS["plan",UNIT["metre",1]]')
    assert "their coordinate systems are" in str(difference(grid(), grid(crs=local)))


def test_a_missing_system_leaves_the_coordinates_to_compare() -> None:
    assert difference(grid(), grid(crs=None)) is None
    assert "500.0 pixels right" in str(difference(grid(), grid(BASE * Affine.translation(500, 0), crs=None)))


@pytest.mark.parametrize("transform", [Affine.identity(), Affine(1.0, 0.0, 5.0, 0.0, 0.0, 5.0)])
def test_no_grid(tmp_path: Path, transform: Affine) -> None:
    """Neither the transform that stands for none, nor one that maps all rows onto one."""
    image = read_image(tiff(tmp_path / "a.tif", PIXELS, photometric="RGB", crs="EPSG:32636", transform=transform))
    assert image.georeference is None
    assert (read_rgb(tmp_path / "a.tif") == PIXELS).all()
