from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.transform import from_origin

from pipeline.datasets.images import image_size, read_image, read_index_map, read_rgb, resized
from pipeline.errors import DataError
from pipeline.files import sha256_file
from tests.datasets.fakes import picture, save

PIXELS = picture(np.random.default_rng(1))


def png16(path: Path, colour_type: int, channels: int) -> Path:
    """Write a 16-bit PNG by hand; Pillow writes none with three channels."""
    side = 4
    row = b"\0" + struct.pack(f">{side * channels}H", *range(0, 256 * side * channels, 256))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 16, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * side)) + chunk(b"IEND", b"")
    )
    return path


def geotiff(path: Path, bands: np.ndarray, **options: object) -> Path:
    profile = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    georeference = {"crs": "EPSG:3857", "transform": from_origin(500, 500, 1, 1)}
    with rasterio.open(path, "w", dtype=bands.dtype, **profile, **georeference, **options) as file:
        file.write(bands)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff"])
def test_lossless_formats(tmp_path: Path, name: str) -> None:
    assert np.array_equal(read_rgb(save(tmp_path / name, PIXELS)), PIXELS)


def test_jpeg(tmp_path: Path) -> None:
    read = read_rgb(save(tmp_path / "a.jpg", np.full((32, 32, 3), 100, dtype=np.uint8)))
    assert read.shape == (32, 32, 3)
    assert np.abs(read.astype(int) - 100).max() <= 2


@pytest.mark.parametrize("options", [{}, {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16}])
def test_geotiff(tmp_path: Path, options: dict[str, object]) -> None:
    path = geotiff(tmp_path / "a.tif", np.moveaxis(PIXELS, -1, 0), photometric="RGB", **options)
    assert np.array_equal(read_rgb(path), PIXELS)


def test_format_is_told_by_content_not_by_suffix(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", PIXELS).rename(tmp_path / "a.jpg")
    assert np.array_equal(read_rgb(path), PIXELS)


def test_hash_is_that_of_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", PIXELS)
    assert read_image(path).sha256 == sha256_file(path)


def test_size(tmp_path: Path) -> None:
    assert image_size(save(tmp_path / "a.png", PIXELS[:24])) == (24, 32)


def palette_image() -> Image.Image:
    return Image.fromarray(PIXELS).quantize(16)


OTHERS: dict[str, tuple[str, Callable[[], Image.Image]]] = {
    "greyscale": ("L", lambda: Image.fromarray(PIXELS).convert("L")),
    "RGBA": ("RGBA", lambda: Image.fromarray(PIXELS).convert("RGBA")),
    "a palette image": ("P", palette_image),
}


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_are_refused_or_converted(tmp_path: Path, name: str, suffix: str) -> None:
    image = OTHERS[name][1]()
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    with pytest.raises(DataError, match=f"the image is {name}, not RGB") as caught:
        read_rgb(path)
    assert caught.value.where == str(path)
    assert "prepare.convert_images: true" in str(caught.value.fix)
    assert np.array_equal(read_rgb(path, convert=True), np.array(image.convert("RGB")))


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (6, 4)])
@pytest.mark.parametrize("convert", [False, True])
def test_sixteen_bit_png_is_always_refused(tmp_path: Path, colour_type: int, channels: int, convert: bool) -> None:
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        read_rgb(png16(tmp_path / "a.png", colour_type, channels), convert=convert)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_sixteen_bit_tiff_is_always_refused(tmp_path: Path, dtype: str) -> None:
    path = geotiff(tmp_path / "a.tif", np.zeros((3, 8, 8), dtype=dtype))
    with pytest.raises(DataError, match="more than 8 bits"):
        read_rgb(path, convert=True)


@pytest.mark.parametrize("bands", [2, 4, 5, 13])
def test_multispectral_bands_are_not_guessed(tmp_path: Path, bands: int) -> None:
    path = geotiff(tmp_path / "a.tif", np.zeros((bands, 8, 8), dtype=np.uint8), photometric="MINISBLACK")
    with pytest.raises(DataError, match="cannot be taken for red, green and blue"):
        read_rgb(path, convert=True)


def test_hundreds_of_bands_are_refused_unread(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "count": 200, "height": 1000, "width": 1000, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", sparse_ok=True, compress="deflate", **profile):
        pass
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="red, green and blue"):
            read_rgb(tmp_path / "a.tif")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_inks_are_refused_or_converted_and_told(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(PIXELS).convert("CMYK").save(tmp_path / f"a.{suffix}")
    with pytest.raises(DataError, match="the image is CMYK, not RGB"):
        read_rgb(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}", convert=True)
    assert np.abs(image.pixels.astype(int) - PIXELS).mean() < 8
    assert image.remarks == ("its inks (CMYK) are turned into colours without a profile",)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_truncated_anywhere(tmp_path: Path, suffix: str) -> None:
    data = save(tmp_path / f"whole.{suffix}", PIXELS).read_bytes()
    for length in range(1, len(data), max(1, len(data) // 40)):
        path = tmp_path / f"part.{suffix}"
        path.write_bytes(data[:length])
        with pytest.raises(DataError) as caught:
            read_rgb(path)
        assert caught.value.where == str(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_damage_is_told_in_the_same_words_each_time(tmp_path: Path, suffix: str) -> None:
    """What Pillow and GDAL say holds addresses and random names, and audit.json keeps what is said."""
    whole = bytearray(save(tmp_path / f"whole.{suffix}", PIXELS).read_bytes())
    path = tmp_path / f"damaged.{suffix}"
    for place in range(4, min(len(whole), 300), 3):
        data = whole.copy()
        data[place : place + 4] = b"\xff\xfe\xff\xfe"
        texts = []
        for _ in range(2):
            path.write_bytes(data)
            try:
                read_rgb(path, convert=True)
            except DataError as error:
                texts.append(str(error))
        assert len(set(texts)) <= 1
        assert "BytesIO" not in "".join(texts)


def test_last_bytes_of_a_png_missing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", PIXELS)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match="damaged"):
        read_rgb(path)


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="0 bytes"):
        read_rgb(tmp_path / "a.png")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the image"):
        read_rgb(tmp_path / "a.png")


def test_other_formats_are_refused(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png", format="BMP")
    with pytest.raises(DataError, match="not a PNG, JPEG or TIFF"):
        read_rgb(tmp_path / "a.png")


def test_a_reference_to_other_files_is_no_tiff(tmp_path: Path) -> None:
    save(tmp_path / "secret.tif", PIXELS)
    (tmp_path / "a.tif").write_text('<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand/></VRTDataset>')
    with pytest.raises(DataError, match="not a PNG, JPEG or TIFF"):
        read_rgb(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_pixel_limit(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", np.zeros((100, 200, 3), dtype=np.uint8))
    assert read_rgb(path, max_megapixels=0.02).shape == (100, 200, 3)
    with pytest.raises(DataError, match="200×100 pixels") as caught:
        read_rgb(path, max_megapixels=0.019)
    assert "prepare.max_megapixels" in str(caught.value.fix)


def test_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A header that promises 10¹⁰ pixels over no data: decoding would fail or exhaust memory, the limit comes first."""
    path = save(tmp_path / "a.png", PIXELS)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="decompression bomb"):
        read_rgb(path)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "1"])
def test_index_map(tmp_path: Path, mode: str) -> None:
    index = np.zeros((8, 8), dtype=np.uint8)
    index[2:4] = 1
    image = Image.fromarray(np.repeat(index[..., None], 3, axis=2) if mode == "RGB" else index)
    if mode == "P":
        image.putpalette([9, 9, 9, 200, 0, 0])
    if mode == "1":
        image = Image.fromarray(index.astype(bool))
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_index_map(tmp_path / "a.png"), index)


def test_colours_are_no_index_map(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="colours, not class indices"):
        read_index_map(save(tmp_path / "a.png", PIXELS))


def _bytes_of(suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, {"png": "PNG", "jpg": "JPEG", "tif": "TIFF"}[suffix])
    return buffer.getvalue()


@given(
    st.sampled_from([_bytes_of("png"), _bytes_of("jpg"), _bytes_of("tif")]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_bytes_give_pixels_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, changes: list[tuple[float, int]]
) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bytes(damaged))
    try:
        pixels = read_rgb(path, convert=True, max_megapixels=1)
    except DataError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


def test_resized_to_height_and_width() -> None:
    pixels = np.zeros((4, 10, 3), np.uint8)
    pixels[:, 5:] = 200
    enlarged = resized(pixels, (8, 40))
    assert enlarged.shape == (8, 40, 3)
    assert not enlarged[:, :18].any() and (enlarged[:, 22:] == 200).all()
