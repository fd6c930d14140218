"""Image files: PNG, JPEG, TIFF and GeoTIFF as RGB images or index maps.

Every reader of pixels in the project goes through this module, so that `prepare`, the stages after it and `describe`
see the same pixels: those that viewers show (see `pipeline.datasets.raster`). They follow from the bytes of the file
alone, which its hash covers; what files beside it say is told by `pipeline.datasets.raster.sidecars`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.contents import name_contents
from pipeline.datasets.raster import png_jpeg, tiff
from pipeline.datasets.raster.decoded import DAMAGED, Decoded, Kind, not_rgb
from pipeline.datasets.raster.georeference import Georeference
from pipeline.errors import DataError
from pipeline.files import sha256_bytes

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})

MAX_MEGAPIXELS: Final = 89.0
"""No larger image is ever decoded; Pillow warns of decompression bombs from here on."""

_CONVERT: Final = "convert the image to 8-bit RGB, or set prepare.convert_images: true"
_KINDS: Final[dict[Kind, str]] = {
    "grey": "greyscale",
    "palette": "a palette image",
    "alpha": "RGBA",
    "bands": "an image with further bands (near infrared?)",
    "ink": "CMYK",
}


@dataclass(frozen=True)
class ImageFile:
    """A decoded image file.

    Attributes:
        pixels: uint8, (H, W, 3), as viewers show them; black where there are no data.
        sha256: SHA-256 of the file's bytes.
        missing: Share of the pixels without data: nodata, masked, fully transparent.
        georeference: Where the pixels lie; None if the file does not say.
        remarks: What was done to the pixels, or what the file says that was not followed; each may follow the file's
            name and a colon.
    """

    pixels: NDArray[np.uint8]
    sha256: str
    missing: float = 0.0
    georeference: Georeference | None = None
    remarks: tuple[str, ...] = ()


def read_rgb(path: Path, *, convert: bool = False, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.uint8]:
    """Read an image file as RGB.

    Args:
        path: PNG, JPEG, TIFF or GeoTIFF, told apart by content.
        convert: Turn greyscale, palette, RGBA and CMYK images, and those with bands beside red, green and blue, into
            RGB instead of refusing them.
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
        raise not_rgb(path, decoded.problem)
    if decoded.kind != "rgb" and not convert:
        raise DataError(f"the image is {_KINDS[decoded.kind]}, not RGB", where=path, fix=_CONVERT)
    missing = 0.0 if decoded.missing is None else float(decoded.missing.mean())
    return ImageFile(decoded.rgb, sha256_bytes(data), missing, decoded.georeference, decoded.remarks)


def read_index_map(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.uint8]:
    """Read a mask whose pixel values are indices: greyscale, palette (the index, not its colour), or equal RGB bands.

    Returns:
        uint8, (H, W): values as stored, in the rows and columns that viewers show.

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
        raise DataError("the image file is empty (0 bytes)", where=path, fix=DAMAGED)
    return data


def _decode(data: bytes, path: Path, max_megapixels: float) -> Decoded:
    if data.startswith(tiff.SIGNATURES):
        return tiff.decode(data, path, max_megapixels)
    if data.startswith((png_jpeg.PNG, png_jpeg.JPEG)):
        return png_jpeg.decode(data, path, max_megapixels)
    name, fix = name_contents(data)
    raise DataError(
        f"not a PNG, JPEG or TIFF image but {name}" if name else "not a PNG, JPEG or TIFF image", where=path, fix=fix
    )
