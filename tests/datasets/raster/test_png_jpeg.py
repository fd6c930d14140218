"""PNG and JPEG files come out as viewers show them."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.datasets.images import image_size, read_image, read_index_map, read_rgb
from pipeline.datasets.raster.png_jpeg import PNG
from pipeline.errors import DataError
from tests.datasets.raster.pictures import GREY, PIXELS, chunk, png, profile

TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""Pillow's transposition for each Exif orientation."""


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[274] = orientation
    return tags.tobytes()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    path, plain = tmp_path / f"a.{suffix}", tmp_path / f"plain.{suffix}"
    Image.fromarray(PIXELS).save(plain)
    Image.fromarray(PIXELS).save(path, exif=exif(orientation))
    image = Image.fromarray(read_rgb(plain))
    expected = np.array(image if orientation == 1 else image.transpose(Image.Transpose(TURNS[orientation])))
    assert np.array_equal(read_rgb(path), expected)
    assert image_size(path) == expected.shape[:2]


def test_exif_orientation_of_masks_and_transparency(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "mask.png", exif=exif(6))
    assert np.array_equal(read_index_map(tmp_path / "mask.png"), np.rot90(GREY, -1))
    alpha = np.full(GREY.shape, 255, dtype=np.uint8)
    alpha[:4] = 0
    Image.fromarray(np.dstack([PIXELS, alpha])).save(tmp_path / "a.png", exif=exif(3))
    assert not read_rgb(tmp_path / "a.png", convert=True)[-4:].any()


@pytest.mark.parametrize("data", [exif(0), exif(9), b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f"])
def test_exif_that_says_nothing_is_passed_over(tmp_path: Path, data: bytes) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=data)
    assert np.array_equal(read_rgb(tmp_path / "a.png"), PIXELS)


def test_transparent_pixels_are_black_and_counted(tmp_path: Path) -> None:
    """What editors leave below transparent pixels is seen in no viewer."""
    alpha = np.full(GREY.shape, 255, dtype=np.uint8)
    alpha[:, :8] = 0
    Image.fromarray(np.dstack([PIXELS, alpha])).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", convert=True)
    assert image.missing == 0.25
    assert not image.pixels[:, :8].any()
    assert np.array_equal(image.pixels[:, 8:], PIXELS[:, 8:])


def test_partly_transparent_pixels_keep_their_colours_and_are_told(tmp_path: Path) -> None:
    alpha = np.full(GREY.shape, 255, dtype=np.uint8)
    alpha[:12] = 128
    Image.fromarray(np.dstack([PIXELS, alpha])).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", convert=True)
    assert np.array_equal(image.pixels, PIXELS)
    assert image.remarks == (
        "384 of its pixels (50.0%) are partly transparent; their colours are taken as if they were opaque",
    )
    assert image.missing == 0


def test_grey_with_alpha(tmp_path: Path) -> None:
    alpha = np.full(GREY.shape, 255, dtype=np.uint8)
    alpha[0] = 0
    Image.fromarray(np.dstack([GREY, alpha])).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", convert=True)
    assert np.array_equal(image.pixels[1:], np.repeat(GREY[1:, :, None], 3, axis=2))
    assert image.missing == 1 / len(GREY)


def test_colour_key(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    pixels[:6] = (1, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=(1, 2, 3))
    image = read_image(tmp_path / "a.png")
    assert image.missing == 0.25
    assert not image.pixels[:6].any()
    assert np.array_equal(image.pixels[6:], pixels[6:])


@pytest.mark.parametrize("entries", [b"\xff\x00", b"\xff\x00\x80"])
def test_palette_with_transparency(tmp_path: Path, entries: bytes) -> None:
    index = (GREY // 86).astype(np.uint8)
    colours = np.array([(9, 8, 7), (1, 2, 3), (0, 200, 0)], dtype=np.uint8)
    image = Image.fromarray(index)
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "a.png", transparency=entries)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_image(tmp_path / "a.png", convert=True)
    expected = colours[index]
    expected[index == 1] = 0
    assert np.array_equal(read.pixels, expected)
    assert read.missing == float((index == 1).mean())
    assert bool(read.remarks) == (len(entries) == 3)
    assert np.array_equal(read_index_map(tmp_path / "a.png"), index)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_of_grey(tmp_path: Path, depth: int) -> None:
    """Spread over the range as an image, as they are stored as a mask; the key of transparency is as stored too."""
    top = 2**depth - 1
    values = np.arange(16, dtype=np.uint8).reshape(1, 16) % (top + 1)
    bits = np.unpackbits(values[..., None], axis=-1)[..., 8 - depth :]
    rows = np.packbits(bits.reshape(1, -1), axis=1)
    path = png(tmp_path / "a.png", rows, depth, 0, chunk(b"tRNS", struct.pack(">H", top)))
    image = read_image(path, convert=True)
    assert np.array_equal(image.pixels[..., 0], np.where(values == top, 0, values * (255 // top)))
    assert image.missing == float((values == top).mean())
    assert np.array_equal(read_index_map(path), values)


def test_interlaced(tmp_path: Path) -> None:
    """Adam7, written by hand: seven passes of every eighth, fourth and second pixel."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    data = b"".join(b"\0" + row.tobytes() for y, dy, x, dx in passes for row in grey[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(PNG + chunks)
    assert np.array_equal(read_rgb(tmp_path / "a.png", convert=True)[..., 0], grey)


def test_a_profile_of_srgb_changes_no_byte(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=srgb)
    image = read_image(tmp_path / "a.png")
    assert np.array_equal(image.pixels, PIXELS)
    assert image.remarks == ()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_other_profiles_are_brought_to_srgb(tmp_path: Path, suffix: str) -> None:
    path, plain = tmp_path / f"a.{suffix}", tmp_path / f"plain.{suffix}"
    Image.fromarray(PIXELS).save(plain, quality=95)
    Image.fromarray(PIXELS).save(path, icc_profile=profile(("b", "g", "r"), 2.2), quality=95)
    image = read_image(path)
    # Red and blue change places; gamma 2.2 is not quite sRGB's curve.
    assert np.abs(image.pixels.astype(int) - read_rgb(plain)[..., ::-1]).max() <= 12
    assert image.remarks == ("its colours are brought from the profile 'swapped' to sRGB",)
    assert np.array_equal(read_rgb(path), read_rgb(path))


def test_a_profile_of_linear_light(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=profile(("r", "g", "b"), 1.0))
    light = PIXELS / 255
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(read_rgb(tmp_path / "a.png") - expected).max() <= 3


@pytest.mark.parametrize("data", [b"garbage", profile(("r", "g", "b"), 2.2)[:150]])
def test_a_broken_profile_is_passed_over_and_told(tmp_path: Path, data: bytes) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=data)
    image = read_image(tmp_path / "a.png")
    assert np.array_equal(image.pixels, PIXELS)
    assert image.remarks == ("its colour profile cannot be used and is passed over",)


def test_a_profile_of_other_pixels_is_passed_over(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png", icc_profile=profile(("b", "g", "r"), 1.0))
    assert np.array_equal(read_rgb(tmp_path / "a.png", convert=True)[..., 0], GREY)


@pytest.mark.parametrize(
    ("chunks", "power"),
    [
        ((chunk(b"gAMA", struct.pack(">I", 45455)),), 1.0),
        ((chunk(b"gAMA", struct.pack(">I", 100_000)),), 0.45455),
        ((chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"sRGB", b"\0")), 1.0),
        ((chunk(b"gAMA", struct.pack(">I", 0)),), 1.0),
    ],
)
def test_gamma(tmp_path: Path, chunks: tuple[bytes, ...], power: float) -> None:
    path = png(tmp_path / "a.png", PIXELS.reshape(len(PIXELS), -1), 8, 2, *chunks)
    image = read_image(path)
    assert np.array_equal(image.pixels, np.rint(255 * (PIXELS / 255) ** power).astype(np.uint8))
    assert bool(image.remarks) == (power != 1)


def test_high_dynamic_range_is_refused(tmp_path: Path) -> None:
    rows = PIXELS.reshape(len(PIXELS), -1)
    assert read_image(png(tmp_path / "a.png", rows, 8, 2, chunk(b"cICP", b"\1\x0d\0\1"))).remarks == ()
    with pytest.raises(DataError, match="cICP"):
        read_image(png(tmp_path / "b.png", rows, 8, 2, chunk(b"cICP", b"\x09\x10\0\1")))


def test_the_first_picture_of_an_animation(tmp_path: Path) -> None:
    first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    first.save(tmp_path / "a.png", save_all=True, append_images=[second], default_image=False)
    image = read_image(tmp_path / "a.png")
    assert np.array_equal(image.pixels, PIXELS)
    assert image.remarks == ("the first of its 2 pictures is taken",)


def test_inks_of_adobe_are_not_inverted(tmp_path: Path) -> None:
    """Adobe stores inks inverted and says so; a white page must not come out black."""
    Image.new("CMYK", (16, 16), (0, 0, 0, 0)).save(tmp_path / "a.jpg")
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    assert read_rgb(tmp_path / "a.jpg", convert=True).min() > 250


def test_twelve_bits_of_jpeg_are_no_damage(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    data[data.index(b"\xff\xc0") + 4] = 12
    (tmp_path / "a.jpg").write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"more than 8 bits per channel \(12 bits\)"):
        read_rgb(tmp_path / "a.jpg")


def test_grey_jpeg(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_rgb(tmp_path / "a.jpg", convert=True)[..., 0].astype(int) - GREY).max() <= 12
