"""The thirty reported cases' own kinds, with files written here, and with the reported files where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import Affine

from pipeline.datasets.image_pairs import compare_dates, nodata_remark, read_date
from tests.datasets.fakes import save
from tests.datasets.raster.pictures import NORTH_UP, PIXELS, UTM, tiff

REPORTED = Path(__file__).resolve().parents[3] / "shared" / "data" / "report_inputs" / "geotiff"


def placed(path: Path, transform: Affine = NORTH_UP, crs: str | None = UTM) -> Path:
    return tiff(path, PIXELS, photometric="RGB", crs=crs, transform=transform)


def kind_of(before: Path, after: Path) -> str | None:
    contradiction = compare_dates(read_date(before, convert=True), read_date(after, convert=True))
    return None if contradiction is None else contradiction.kind


def test_one_grid(tmp_path: Path) -> None:
    assert kind_of(placed(tmp_path / "a.tif"), placed(tmp_path / "b.tif")) is None
    assert kind_of(save(tmp_path / "a.png", PIXELS), save(tmp_path / "b.png", PIXELS)) is None


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (NORTH_UP * Affine.translation(500, 0), UTM),
        (NORTH_UP * Affine.scale(10), UTM),
        (NORTH_UP * Affine.rotation(-30), UTM),
        (NORTH_UP, "EPSG:32637"),
    ],
)
def test_another_ground(tmp_path: Path, transform: Affine, crs: str) -> None:
    assert kind_of(placed(tmp_path / "a.tif"), placed(tmp_path / "b.tif", transform, crs)) == "georeference-mismatch"


def test_coordinates_on_one_side(tmp_path: Path) -> None:
    before, after = read_date(placed(tmp_path / "a.tif")), read_date(save(tmp_path / "b.png", PIXELS))
    for images, bearer in (((before, after), "earlier"), ((after, before), "later")):
        contradiction = compare_dates(*images)
        assert contradiction is not None
        assert contradiction.kind == "georeference-missing"
        assert f"only the {bearer} one carries coordinates" in contradiction.what


def test_sizes_go_first(tmp_path: Path) -> None:
    small = tiff(
        tmp_path / "b.tif", PIXELS[:8], photometric="RGB", crs="EPSG:4326", transform=Affine(1, 0, 0, 0, -1, 0)
    )
    assert kind_of(placed(tmp_path / "a.tif"), small) == "size-mismatch"


def test_a_south_up_copy_is_on_the_same_ground(tmp_path: Path) -> None:
    """Compared by where the pixels are seen, not by how their rows are stored."""
    turned = NORTH_UP * Affine.translation(0, len(PIXELS)) * Affine.scale(1, -1)
    tiff(tmp_path / "b.tif", PIXELS[::-1], photometric="RGB", crs=UTM, transform=turned)
    assert kind_of(placed(tmp_path / "a.tif"), tmp_path / "b.tif") is None


def test_pixels_without_data_are_counted(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    pixels[:, :8] = 0
    image = read_date(tiff(tmp_path / "a.tif", pixels, photometric="RGB", nodata=0))
    assert nodata_remark(image) == (
        "192 of its pixels (25.0%) have no data (nodata, masked, transparent) and are black"
    )
    assert nodata_remark(read_date(save(tmp_path / "b.png", PIXELS))) is None


needs_reported = pytest.mark.skipif(not REPORTED.is_dir(), reason=f"the reported files are not at {REPORTED}")


@needs_reported
@pytest.mark.parametrize("name", ["a", "b_bgr", "b_south_up"])
def test_reported_colours(name: str) -> None:
    reference = read_date(REPORTED / "reference.png").pixels
    assert np.array_equal(read_date(REPORTED / f"{name}.tif").pixels, reference)


@needs_reported
@pytest.mark.parametrize("name", ["b_min_is_white", "b_grey_alpha", "b_4bit"])
def test_reported_greys(name: str) -> None:
    """They hold the reference's red band; 4 bits leave steps of 17."""
    expected = read_date(REPORTED / "reference.png").pixels[..., :1].astype(int)
    image = read_date(REPORTED / f"{name}.tif", convert=True).pixels
    assert np.abs(image - expected).max() <= (17 if name == "b_4bit" else 0)


@needs_reported
def test_reported_collar() -> None:
    assert read_date(REPORTED / "b_nodata_collar.tif").missing == 0.375


@needs_reported
@pytest.mark.parametrize("name", ["b_500m_east", "b_other_zone", "b_10m_pixels", "b_rotated_30"])
def test_reported_grounds(name: str) -> None:
    assert kind_of(REPORTED / "a.tif", REPORTED / f"{name}.tif") == "georeference-mismatch"
