"""TIFF files come out as viewers show them: each field that says something about the pixels, written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from pipeline.datasets.images import image_size, read_image, read_index_map, read_rgb
from pipeline.errors import DataError
from tests.datasets.raster.pictures import GREY, NORTH_UP, PIXELS, UTM, profile, tiff

R, G, B, A, N = ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha, ColorInterp.undefined
GREYS = np.repeat(GREY[..., None], 3, axis=2)
OPAQUE = np.full(GREY.shape, 255, dtype=np.uint8)
HEIGHT, WIDTH = GREY.shape


def test_min_is_white(tmp_path: Path) -> None:
    image = read_image(tiff(tmp_path / "a.tif", 255 - GREY, photometric="MINISWHITE"), convert=True)
    assert np.array_equal(image.pixels, GREYS)
    assert image.remarks == ()


def test_min_is_white_with_alpha_and_with_nodata(tmp_path: Path) -> None:
    """Opacity is not inverted, and nodata is a value as it is stored."""
    alpha = OPAQUE.copy()
    alpha[:4] = 0
    path = tiff(tmp_path / "a.tif", np.dstack([255 - GREY, alpha]), photometric="MINISWHITE", alpha="YES")
    image = read_image(path, convert=True)
    assert np.array_equal(image.pixels[4:], GREYS[4:])
    assert not image.pixels[:4].any()
    stored = 255 - GREY
    stored[:4] = 9
    stored[4:][stored[4:] == 9] = 10
    image = read_image(tiff(tmp_path / "b.tif", stored, photometric="MINISWHITE", nodata=9), convert=True)
    assert image.missing == 4 / HEIGHT
    assert not image.pixels[:4].any()


def test_min_is_white_of_three_bands_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="MinIsWhite"):
        read_rgb(tiff(tmp_path / "a.tif", PIXELS, photometric="MINISWHITE"), convert=True)


@pytest.mark.parametrize("white", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7])
def test_few_bits_of_grey_are_spread_over_the_range(tmp_path: Path, bits: int, white: bool) -> None:
    top = 2**bits - 1
    stored = (GREY.astype(int) * top // 255).astype(np.uint8)
    photometric = "MINISWHITE" if white else "MINISBLACK"
    path = tiff(tmp_path / "a.tif", stored, nbits=bits, photometric=photometric)
    expected = np.rint(255 / top * (top - stored.astype(int) if white else stored))
    assert np.array_equal(read_rgb(path, convert=True), np.repeat(expected[..., None], 3, axis=2))


def test_few_bits_of_colours(tmp_path: Path) -> None:
    assert np.array_equal(
        read_rgb(tiff(tmp_path / "a.tif", PIXELS // 16, nbits=4, photometric="RGB")), PIXELS // 16 * 17
    )


def test_few_bits_of_class_indices_stay_indices(tmp_path: Path) -> None:
    stored = GREY // 64
    assert np.array_equal(read_index_map(tiff(tmp_path / "a.tif", stored, nbits=4)), stored)
    assert np.array_equal(read_index_map(tiff(tmp_path / "b.tif", stored, nbits=2, photometric="MINISWHITE")), stored)


@pytest.mark.parametrize(
    ("dtype", "options", "words"),
    [
        ("uint16", {"nbits": 12}, r"more than 8 bits per channel \(12 bits in uint16\)"),
        ("uint16", {}, r"\(uint16\)"),
        ("int16", {}, r"\(int16\)"),
        ("float32", {}, r"\(float32\)"),
        ("float64", {}, r"\(float64\)"),
        ("complex64", {}, r"\(complex64\)"),
        ("int8", {}, r"signed values \(int8\)"),
    ],
)
def test_other_values_are_refused_by_their_name(
    tmp_path: Path, dtype: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        read_rgb(tiff(tmp_path / "a.tif", PIXELS.astype(dtype), **options), convert=True)


@pytest.mark.parametrize(
    ("order", "meanings", "kind"),
    [
        ((2, 1, 0), (B, G, R), "rgb"),
        ((1, 2, 0), (G, B, R), "rgb"),
        ((0, 1, 2), (N, N, N), "rgb"),
        ((0, 1, 2, 3), (R, G, B, A), "RGBA"),
        ((3, 0, 1, 2), (A, R, G, B), "RGBA"),
        ((2, 1, 0, 3), (B, G, R, A), "RGBA"),
        ((3, 2, 1, 0), (A, B, G, R), "RGBA"),
        ((0, 1, 2, 3), (N, N, N, A), "RGBA"),
        ((0, 1, 2, 3), (R, G, B, N), "further bands"),
        ((3, 0, 1, 2), (N, R, G, B), "further bands"),
        ((2, 1, 0, 3), (B, G, R, N), "further bands"),
        ((3, 2, 1, 0, 3), (N, B, G, R, N), "further bands"),
        ((2, 1, 0, 3), (B, G, R, ColorInterp.gray), "further bands"),
    ],
)
def test_bands_are_ordered_by_their_meaning(
    tmp_path: Path, order: tuple[int, ...], meanings: tuple[ColorInterp, ...], kind: str
) -> None:
    four = np.dstack([PIXELS, OPAQUE])
    path = tiff(tmp_path / "a.tif", four[..., list(order)], meanings=meanings, photometric="MINISBLACK")
    assert np.array_equal(read_rgb(path, convert=True), PIXELS)
    if kind == "rgb":
        assert np.array_equal(read_rgb(path), PIXELS)
    else:
        with pytest.raises(DataError, match=kind):
            read_rgb(path)


@pytest.mark.parametrize(
    ("meanings", "words"),
    [
        ((N, R, G), "3 bands and calls them undefined, red, green"),
        ((R, R, B), "red, red, blue"),
        ((R, G, A), "red, green, alpha"),
        ((N, N), "2 bands and calls them gray, undefined"),
        ((N, N, N, N), "4 bands"),
        ((ColorInterp.hue, ColorInterp.saturation, ColorInterp.lightness), "hue, saturation, lightness"),
    ],
)
def test_bands_without_the_three_colours_are_refused(
    tmp_path: Path, meanings: tuple[ColorInterp, ...], words: str
) -> None:
    bands = np.dstack([PIXELS, OPAQUE])[..., : len(meanings)]
    with pytest.raises(DataError, match=f"cannot be taken for red, green and blue.*{words}"):
        read_rgb(tiff(tmp_path / "a.tif", bands, meanings=meanings, photometric="MINISBLACK"), convert=True)


def test_descriptions_that_contradict_the_order_are_told(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", PIXELS, photometric="RGB")
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("Blue", "Green", "Red")
    image = read_image(path)
    assert np.array_equal(image.pixels, PIXELS)
    assert "have the descriptions Blue, Green, Red" in image.remarks[0]


def test_grey_and_alpha_as_png_has_it(tmp_path: Path) -> None:
    bands = np.dstack([GREY, OPAQUE])
    path = tiff(tmp_path / "a.tif", bands, meanings=(ColorInterp.gray, A))
    assert np.array_equal(read_rgb(path, convert=True), GREYS)
    Image.fromarray(bands, "LA").save(tmp_path / "a.png")
    assert np.array_equal(read_rgb(tmp_path / "a.png", convert=True), GREYS)


def test_premultiplied_colours_are_divided(tmp_path: Path) -> None:
    alpha = np.full(GREY.shape, 100, dtype=np.uint8)
    bands = np.dstack([np.rint(PIXELS * (100 / 255)).astype(np.uint8), alpha])
    image = read_image(tiff(tmp_path / "a.tif", bands, photometric="RGB", alpha="PREMULTIPLIED"), convert=True)
    assert np.abs(image.pixels.astype(int) - PIXELS).max() <= 2
    assert "partly transparent" in image.remarks[0]
    assert image.missing == 0


@pytest.mark.parametrize("kind", ["nodata", "mask", "alpha"])
def test_pixels_without_data_are_black_and_counted(tmp_path: Path, kind: str) -> None:
    missing = np.zeros(GREY.shape, dtype=bool)
    missing[:, :8] = True
    stored = np.where(missing[..., None], np.uint8(77), PIXELS)
    if kind == "nodata":
        path = tiff(tmp_path / "a.tif", stored, photometric="RGB", nodata=77)
    elif kind == "mask":
        path = tiff(tmp_path / "a.tif", stored, photometric="RGB", mask=~missing)
    else:
        bands = np.dstack([stored, np.where(missing, 0, 255).astype(np.uint8)])
        path = tiff(tmp_path / "a.tif", bands, photometric="RGB", alpha="YES")
    image = read_image(path, convert=True)
    assert image.missing == 0.25
    assert np.array_equal(image.pixels, np.where(missing[..., None], 0, PIXELS))


@pytest.mark.parametrize("nodata", [-9999, float("nan"), 256])
def test_nodata_that_no_byte_has(tmp_path: Path, nodata: float) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(PIXELS).save(path, tiffinfo={42113: str(nodata)})
    assert read_image(path).missing == 0
    assert np.array_equal(read_rgb(path), PIXELS)


def test_one_band_of_nodata_is_a_colour(tmp_path: Path) -> None:
    stored = PIXELS.copy()
    stored[..., 1] = 0
    stored[..., 0] = 200
    image = read_image(tiff(tmp_path / "a.tif", stored, photometric="RGB", nodata=0))
    assert image.missing == 0
    assert np.array_equal(image.pixels, stored)


def test_palette_with_nodata(tmp_path: Path) -> None:
    index = GREY // 64
    path = tiff(tmp_path / "a.tif", index, photometric="PALETTE", nodata=3)
    colours = {0: (9, 8, 7), 1: (200, 0, 0), 2: (0, 200, 0), 3: (1, 2, 3)}
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, colours)
    expected = np.array([*list(colours.values())[:3], (0, 0, 0)], dtype=np.uint8)[index]
    image = read_image(path, convert=True)
    assert np.array_equal(image.pixels, expected)
    assert image.missing == float((index == 3).mean())
    assert np.array_equal(read_index_map(path), index)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_without_coordinates(tmp_path: Path, orientation: int) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.tif", tiffinfo={274: orientation})
    expected = stored_turned(orientation)
    assert np.array_equal(read_rgb(tmp_path / "a.tif"), expected)
    assert image_size(tmp_path / "a.tif") == expected.shape[:2]


def stored_turned(orientation: int) -> np.ndarray:
    """What Pillow, an independent reader, makes of an orientation."""
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    image = Image.fromarray(PIXELS)
    return np.array(image if orientation == 1 else image.transpose(Image.Transpose(turns[orientation])))


TURNED: dict[str, tuple[np.ndarray, Affine]] = {
    "south up": (PIXELS[::-1], Affine(2.0, 0.0, 500_000.0, 0.0, 2.0, 4_000_000.0 - 2 * HEIGHT)),
    "mirrored": (PIXELS[:, ::-1], Affine(-2.0, 0.0, 500_000.0 + 2 * WIDTH, 0.0, -2.0, 4_000_000.0)),
    "half a turn": (
        PIXELS[::-1, ::-1],
        Affine(-2.0, 0.0, 500_000.0 + 2 * WIDTH, 0.0, 2.0, 4_000_000.0 - 2 * HEIGHT),
    ),
    "transposed": (PIXELS.swapaxes(0, 1), Affine(0.0, 2.0, 500_000.0, -2.0, 0.0, 4_000_000.0)),
}


@pytest.mark.parametrize("crs", [UTM, None])
@pytest.mark.parametrize("name", ["south up", "mirrored", "half a turn", "transposed"])
def test_coordinates_turn_an_image_north_up(tmp_path: Path, name: str, crs: str | None) -> None:
    stored, transform = TURNED[name]
    image = read_image(tiff(tmp_path / "a.tif", stored, photometric="RGB", crs=crs, transform=transform))
    assert np.array_equal(image.pixels, PIXELS)
    assert image.georeference is not None
    assert image.georeference.transform == NORTH_UP[:6]
    assert (image.georeference.height, image.georeference.width) == GREY.shape
    assert "as its coordinates ask for, so that north is up" in image.remarks[0]


def test_masks_are_turned_like_their_images(tmp_path: Path) -> None:
    _, transform = TURNED["south up"]
    path = tiff(tmp_path / "a.tif", GREY[::-1] // 64, crs=UTM, transform=transform)
    assert np.array_equal(read_index_map(path), GREY // 64)


def test_nodata_is_turned_with_its_image(tmp_path: Path) -> None:
    stored = PIXELS.copy()
    stored[:4] = 9
    transform = TURNED["south up"][1]
    image = read_image(tiff(tmp_path / "a.tif", stored[::-1], photometric="RGB", transform=transform, nodata=9))
    assert not image.pixels[:4].any()
    assert np.array_equal(image.pixels[4:], PIXELS[4:])


def test_coordinates_go_before_the_tag(tmp_path: Path) -> None:
    """Software that reads coordinates passes over Orientation, so a file with both is right by its coordinates."""
    info = {274: 3, 33550: (2.0, 2.0, 0.0), 33922: (0.0, 0.0, 0.0, 500_000.0, 4_000_000.0, 0.0)}
    Image.fromarray(PIXELS).save(tmp_path / "a.tif", tiffinfo=info)
    image = read_image(tmp_path / "a.tif")
    assert image.georeference is not None
    assert np.array_equal(image.pixels, PIXELS)


def test_a_rotated_grid_is_told_and_left(tmp_path: Path) -> None:
    transform = NORTH_UP * Affine.rotation(-12)
    image = read_image(tiff(tmp_path / "a.tif", PIXELS, photometric="RGB", crs=UTM, transform=transform))
    assert np.array_equal(image.pixels, PIXELS)
    assert image.remarks == ("its rows run 12.0° off east–west, and its pixels stay so",)


def test_a_grid_turned_by_more_than_a_quarter_is_brought_near(tmp_path: Path) -> None:
    transform = NORTH_UP * Affine.rotation(170)
    image = read_image(tiff(tmp_path / "a.tif", PIXELS, photometric="RGB", crs=UTM, transform=transform))
    assert np.array_equal(image.pixels, PIXELS[::-1, ::-1])
    assert "10.0°" in image.remarks[1]


def test_control_points_are_coordinates(tmp_path: Path) -> None:
    corners = [(0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH)]
    points = [GroundControlPoint(row, column, 500_000 + 2 * column, 4_000_000 + 2 * row) for row, column in corners]
    image = read_image(tiff(tmp_path / "a.tif", PIXELS, photometric="RGB", gcps=points, crs=UTM))
    assert np.array_equal(image.pixels, PIXELS[::-1])
    assert image.georeference is not None
    assert image.georeference.name == UTM


def test_control_points_of_no_grid_are_told(tmp_path: Path) -> None:
    corners = [(0, 0, 0), (0, WIDTH, 9), (HEIGHT, 0, 3), (HEIGHT, WIDTH, -40)]
    points = [GroundControlPoint(row, column, 2 * column + bend, -2 * row) for row, column, bend in corners]
    image = read_image(tiff(tmp_path / "a.tif", PIXELS, photometric="RGB", gcps=points, crs=UTM))
    assert np.array_equal(image.pixels, PIXELS)
    assert image.georeference is None
    assert "make no regular grid" in image.remarks[0]


def test_pages(tmp_path: Path) -> None:
    first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    image = read_image(tmp_path / "a.tif")
    assert np.array_equal(image.pixels, PIXELS)
    assert image.remarks == ("the first of its 2 pictures (pages) is taken",)


def test_overviews_and_masks_are_no_pages(tmp_path: Path) -> None:
    mask = np.ones(GREY.shape, dtype=bool)
    path = tiff(tmp_path / "a.tif", PIXELS, photometric="RGB", mask=mask, tiled=True, blockxsize=16, blockysize=16)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2])
    image = read_image(path)
    assert np.array_equal(image.pixels, PIXELS)
    assert image.remarks == ()
    assert image.missing == 0


@pytest.mark.parametrize(
    "options",
    [
        {"bigtiff": "YES"},
        {"interleave": "band"},
        {"compress": "lzw", "predictor": 2},
        {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16},
        {"endianness": "BIG"},
        {"endianness": "BIG", "bigtiff": "YES"},
    ],
)
def test_ways_of_storing_do_not_show(tmp_path: Path, options: dict[str, Any]) -> None:
    image = read_image(tiff(tmp_path / "a.tif", PIXELS, photometric="RGB", **options))
    assert np.array_equal(image.pixels, PIXELS)
    assert image.remarks == ()


@pytest.mark.parametrize("options", [{"compress": "jpeg"}, {}])
def test_luma_and_chroma_come_out_as_colours(tmp_path: Path, options: dict[str, Any]) -> None:
    if options:
        tiff(tmp_path / "a.tif", PIXELS, photometric="YCBCR", jpeg_quality=95, **options)
    else:
        Image.fromarray(PIXELS).convert("YCbCr").save(tmp_path / "a.tif")
    assert np.abs(read_rgb(tmp_path / "a.tif").astype(int) - PIXELS).mean() < 12


def test_lab_is_refused_by_its_name(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).convert("LAB").save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"they are CIE L\*a\*b\*"):
        read_rgb(tmp_path / "a.tif", convert=True)


def test_profile(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.tif", icc_profile=profile(("b", "g", "r"), 2.2))
    image = read_image(tmp_path / "a.tif")
    assert np.abs(image.pixels.astype(int) - PIXELS[..., ::-1]).max() <= 12
    assert image.remarks == ("its colours are brought from the profile 'swapped' to sRGB",)
