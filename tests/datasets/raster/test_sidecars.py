"""Files beside an image are compared and told; the pixels follow from the image alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from pipeline.datasets.image_pairs import compare_dates, read_date
from pipeline.datasets.images import read_rgb
from pipeline.errors import DataError
from tests.datasets.fakes import save
from tests.datasets.raster.pictures import NORTH_UP, PIXELS, UTM, tiff

AUX = "<PAMDataset>{}</PAMDataset>"


def world(path: Path, a: float, d: float, b: float, e: float, c: float, f: float) -> None:
    path.write_text("\n".join(str(value) for value in (a, d, b, e, c, f)) + "\n")


@pytest.mark.parametrize(("name", "ending"), [("a.png", "pgw"), ("a.jpg", "jgw"), ("a.jpeg", "JGW"), ("a.tif", "wld")])
def test_a_world_file_gives_the_grid(tmp_path: Path, name: str, ending: str) -> None:
    path = save(tmp_path / name, PIXELS)
    world(tmp_path / f"a.{ending}", 2, 0, 0, -2, 500_001, 3_999_999)
    image = read_date(path)
    assert image.georeference is not None
    assert image.georeference.transform == NORTH_UP[:6]
    assert image.remarks == ()
    other = save(tmp_path / "b.png", PIXELS)
    world(tmp_path / "b.pgw", 2, 0, 0, -2, 501_001, 3_999_999)
    contradiction = compare_dates(image, read_date(other))
    assert contradiction is not None
    assert "500.0 pixels right" in contradiction.what


def test_a_world_file_that_would_turn_the_image_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", PIXELS)
    world(tmp_path / "a.pgw", 2, 0, 0, 2, 500_001, 3_999_999)
    with pytest.raises(DataError, match=r"by the file beside the image \(a\.pgw\) it is not north-up.*top to bottom"):
        read_date(path)
    assert np.array_equal(read_rgb(path), PIXELS)


def test_a_world_file_of_a_rotated_grid_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", PIXELS)
    world(tmp_path / "a.pgw", 2, 0.4, 0.4, -2, 500_001, 3_999_999)
    assert "off east–west" in read_date(path).remarks[0]


def test_coordinates_of_gdal(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", PIXELS)
    (tmp_path / "a.png.aux.xml").write_text(
        AUX.format(f"<SRS>{UTM}</SRS><GeoTransform>500000, 2, 0, 4000000, 0, -2</GeoTransform>")
    )
    image = read_date(path)
    assert image.georeference is not None
    assert image.georeference.name == UTM
    assert compare_dates(image, read_date(tiff(tmp_path / "b.tif", PIXELS, crs=UTM, transform=NORTH_UP))) is None


def test_statistics_alone_say_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", PIXELS)
    (tmp_path / "a.png.aux.xml").write_text(
        AUX.format('<PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">9</MDI></Metadata></PAMRasterBand>')
    )
    image = read_date(path)
    assert image.remarks == ()
    assert image.georeference is None


def test_nodata_beside_is_told(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    pixels[:6] = 0
    path = save(tmp_path / "a.tif", pixels)
    bands = "".join(f'<PAMRasterBand band="{n}"><NoDataValue>0</NoDataValue></PAMRasterBand>' for n in (1, 2, 3))
    (tmp_path / "a.tif.aux.xml").write_text(AUX.format(bands))
    image = read_date(path)
    assert image.remarks == (
        "192 of its pixels (25.0%) have no data by a file beside it (a.tif.aux.xml); they are taken as they are stored",
    )
    assert np.array_equal(image.pixels, pixels)


def test_bands_named_otherwise_beside_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", PIXELS)
    names = enumerate(("Blue", "Green", "Red"), start=1)
    bands = "".join(f'<PAMRasterBand band="{n}"><ColorInterp>{name}</ColorInterp></PAMRasterBand>' for n, name in names)
    (tmp_path / "a.tif.aux.xml").write_text(AUX.format(bands))
    with pytest.raises(DataError, match=r"another meaning by the file beside the image \(a\.tif\.aux\.xml\)"):
        read_date(path)


def test_a_mask_beside_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", PIXELS)
    mask = np.full(PIXELS.shape[:2], 255, dtype=np.uint8)
    mask[:6] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    assert (tmp_path / "a.tif.msk").is_file()
    assert "192 of its pixels (25.0%) have no data by a file beside it (a.tif.msk)" in read_date(path).remarks[0]


def test_an_image_turned_by_its_own_coordinates_and_a_world_file_of_the_same(tmp_path: Path) -> None:
    transform = NORTH_UP * NORTH_UP.translation(0, len(PIXELS)) * NORTH_UP.scale(1, -1)
    path = tiff(tmp_path / "a.tif", PIXELS[::-1], photometric="RGB", crs=UTM, transform=transform)
    world(tmp_path / "a.tfw", 2, 0, 0, 2, 500_001, 4_000_001 - 2 * len(PIXELS))
    image = read_date(path)
    assert np.array_equal(image.pixels, PIXELS)
    assert image.georeference is not None
    assert image.georeference.transform == NORTH_UP[:6]


@pytest.mark.parametrize("text", ["no XML", "<PAMDataset><GeoTransform>x</GeoTransform></PAMDataset>"])
def test_a_damaged_file_beside_never_harms_the_image(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    (tmp_path / "a.png.aux.xml").write_text(text)
    (tmp_path / "a.pgw").write_text("1\n2\n")
    assert np.array_equal(read_date(path).pixels, PIXELS)
