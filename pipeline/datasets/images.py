"""Image files: PNG, JPEG, TIFF and GeoTIFF as RGB images or index maps."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.files import sha256_bytes

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})

MAX_MEGAPIXELS: Final = 89.0
"""No larger image is ever decoded; Pillow warns of decompression bombs from here on."""

_CONVERT: Final = "convert the image to 8-bit RGB, or set prepare.convert_images: true"
_DAMAGED: Final = "replace the file by a whole copy"

Kind = Literal["rgb", "grey", "palette", "alpha", "other"]


@dataclass(frozen=True)
class ImageFile:
    """A decoded image file.

    Attributes:
        pixels: uint8, (H, W, 3).
        sha256: SHA-256 of the file's bytes.
    """

    pixels: NDArray[np.uint8]
    sha256: str


@dataclass(frozen=True)
class _Decoded:
    """Decoded pixels as they are stored, and as RGB without alpha."""

    kind: Kind
    stored: NDArray[np.uint8]
    rgb: NDArray[np.uint8]


def read_rgb(path: Path, *, convert: bool = False, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.uint8]:
    """Read an image file as RGB.

    Args:
        path: PNG, JPEG, TIFF or GeoTIFF, told apart by content.
        convert: Turn greyscale, palette and RGBA images into RGB (alpha is dropped) instead of refusing them.
        max_megapixels: Refuse larger images before they are decoded.

    Returns:
        uint8, (H, W, 3).

    Raises:
        DataError: The file is missing, damaged, too large, not 8-bit, or not RGB and `convert` is off.
    """
    return read_image(path, convert=convert, max_megapixels=max_megapixels).pixels


def resized(pixels: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image, uint8 (H, W, 3), to `shape`, height and width: bilinear, antialiased."""
    # Stages that only read images start a second sooner without torch.
    import torch
    from torch.nn.functional import interpolate

    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    image = interpolate(image, size=shape, mode="bilinear", align_corners=False, antialias=True)
    resized_pixels: NDArray[np.uint8] = image[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return resized_pixels


def read_unchanged(path: Path, sha256: str) -> NDArray[np.uint8]:
    """Read an image of a prepared data set as RGB, uint8 (H, W, 3).

    Args:
        path: The file.
        sha256: Hash of the file when the data set was prepared.

    Raises:
        DataError: It cannot be read, or has changed since.
    """
    image = read_image(path, convert=True)
    if image.sha256 != sha256:
        raise DataError("the image has changed since `sagecc prepare`", where=path, fix="run `sagecc prepare`")
    return image.pixels


def read_image(path: Path, *, convert: bool = False, max_megapixels: float = MAX_MEGAPIXELS) -> ImageFile:
    """Read an image file once, for its pixels and its hash; see `read_rgb` for arguments and errors."""
    data = _read_bytes(path)
    decoded = _decode(data, path, max_megapixels)
    if decoded.kind == "other":
        raise _not_rgb(path)
    if decoded.kind != "rgb" and not convert:
        name = {"grey": "greyscale", "palette": "a palette image", "alpha": "RGBA"}[decoded.kind]
        raise DataError(f"the image is {name}, not RGB", where=path, fix=_CONVERT)
    return ImageFile(decoded.rgb, sha256_bytes(data))


def read_index_map(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.uint8]:
    """Read a mask whose pixel values are indices: greyscale, palette (the index, not its colour), or equal RGB bands.

    Returns:
        uint8, (H, W).

    Raises:
        DataError: The file is missing, damaged, too large, not 8-bit, or holds colours.
    """
    stored = _decode(_read_bytes(path), path, max_megapixels).stored
    if stored.ndim == 2:
        return stored
    if stored.shape[2] >= 3 and not (stored[..., :3] == stored[..., :1]).all():
        raise DataError(
            "the mask holds colours, not class indices", where=path, fix="use the index map of the data set"
        )
    return np.ascontiguousarray(stored[..., 0])


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image in pixels.

    Raises:
        DataError: The file is missing or damaged.
    """
    height, width = _decode(_read_bytes(path), path, MAX_MEGAPIXELS).stored.shape[:2]
    return height, width


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the image: {error.strerror or error}", where=path) from error
    if not data:
        raise DataError("the image file is empty (0 bytes)", where=path, fix=_DAMAGED)
    return data


def _decode(data: bytes, path: Path, max_megapixels: float) -> _Decoded:
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return _decode_tiff(data, path, max_megapixels)
    if data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return _decode_with_pillow(data, path, max_megapixels)
    raise DataError("not a PNG, JPEG or TIFF image", where=path, fix=_DAMAGED)


def _decode_with_pillow(data: bytes, path: Path, max_megapixels: float) -> _Decoded:
    from PIL import Image

    # Pillow reduces 16-bit RGB to 8 bits without a word, so the depth is read from the header itself.
    if data.startswith(b"\x89PNG") and data[24:25] == b"\x10":
        raise _sixteen_bit(path)
    if data.startswith(b"\x89PNG") and b"IEND\xaeB`\x82" not in data:
        raise DataError("the image is damaged: its end is missing", where=path, fix=_DAMAGED)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            _check_size(image.width, image.height, path, max_megapixels)
            image.load()
            if image.mode.startswith(("I", "F")):
                raise _sixteen_bit(path)
            stored = np.array(image, dtype=np.uint8)
            rgb = stored if image.mode == "RGB" else np.array(image.convert("RGB"), dtype=np.uint8)
            return _Decoded(_PILLOW_KINDS.get(image.mode, "other"), stored, rgb)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            "the image is so large that it may be a decompression bomb", where=path, fix="cut it into tiles"
        ) from error
    # Damaged files make Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise DataError(f"the image is damaged: {error}", where=path, fix=_DAMAGED) from error


_PILLOW_KINDS: Final[dict[str, Kind]] = {
    "RGB": "rgb",
    "1": "grey",
    "L": "grey",
    "P": "palette",
    "LA": "alpha",
    "PA": "alpha",
    "RGBA": "alpha",
}


def _decode_tiff(data: bytes, path: Path, max_megapixels: float) -> _Decoded:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    # Images without coordinates are the rule here. Set once and for all: `catch_warnings` is not safe among threads.
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    try:
        # Named driver: a file that only pretends to be a TIFF could point GDAL at other files or addresses.
        with rasterio.MemoryFile(data) as memory, memory.open(driver="GTiff") as source:
            _check_size(source.width, source.height, path, max_megapixels)
            if source.count > 4:
                raise _not_rgb(path)
            if any(dtype != "uint8" for dtype in source.dtypes):
                raise _sixteen_bit(path)
            return _tiff_bands(np.moveaxis(source.read(), 0, -1), source)
    except RasterioError as error:
        raise DataError(f"the image is damaged: {error}", where=path, fix=_DAMAGED) from error


def _tiff_bands(bands: NDArray[np.uint8], source: Any) -> _Decoded:
    from rasterio.enums import ColorInterp

    meanings = source.colorinterp
    if len(meanings) == 1:
        index = np.ascontiguousarray(bands[..., 0])
        if meanings[0] != ColorInterp.palette:
            return _Decoded("grey", index, np.repeat(index[..., None], 3, axis=2))
        colours = np.zeros((256, 3), dtype=np.uint8)
        for number, colour in source.colormap(1).items():
            colours[number] = colour[:3]
        return _Decoded("palette", index, colours[index])
    rgb = np.ascontiguousarray(bands[..., :3])
    if len(meanings) == 3 and ColorInterp.cyan not in meanings:
        return _Decoded("rgb", rgb, rgb)
    if len(meanings) == 4 and meanings[3] == ColorInterp.alpha:
        return _Decoded("alpha", bands, rgb)
    # A fourth band without a name may be near infrared, and the order of the first three is then unknown too.
    return _Decoded("other", bands, rgb)


def _check_size(width: int, height: int, path: Path, max_megapixels: float) -> None:
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise DataError(
            f"the image has {width}×{height} pixels, {megapixels:.1f} megapixels; the limit is {max_megapixels:g}",
            where=path,
            fix="cut it into tiles, or raise prepare.max_megapixels",
        )


def _not_rgb(path: Path) -> DataError:
    return DataError(
        "the bands of the image cannot be taken for red, green and blue", where=path, fix="convert it to 8-bit RGB"
    )


def _sixteen_bit(path: Path) -> DataError:
    return DataError(
        "the image has more than 8 bits per channel",
        where=path,
        fix="scale it to 8-bit RGB yourself: which range of values to keep is a choice that sagecc does not make",
    )
