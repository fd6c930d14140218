"""PNG and JPEG files as viewers show them."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.datasets.raster.colours import gamma_table, to_srgb
from pipeline.datasets.raster.decoded import (
    DAMAGED,
    Decoded,
    Kind,
    check_size,
    not_rgb,
    opacity_remark,
    too_deep,
)
from pipeline.errors import DataError

PNG: Final = b"\x89PNG\r\n\x1a\n"
JPEG: Final = b"\xff\xd8\xff"

_ORIENTATION: Final = 274
_PNG_END: Final = b"IEND\xaeB`\x82"
_CICP_SRGB: Final = b"\x01\x0d"
"""Primaries and transfer function of sRGB in a PNG's cICP chunk (ITU-T H.273)."""


def decode(data: bytes, path: Path, max_megapixels: float) -> Decoded:
    """Decode a PNG or JPEG file.

    Colours are brought to sRGB by the file's profile or gamma, pixels are turned by its Exif orientation, and
    transparent pixels count as pixels without data.

    Raises:
        DataError: It is damaged, too large, or has more than 8 bits per channel.
    """
    from PIL import Image, UnidentifiedImageError

    chunks: dict[bytes, bytes] = {}
    if data.startswith(PNG):
        # Pillow reduces 16-bit RGB to 8 bits without a word, so the depth is read from the header itself.
        if data[24:25] == b"\x10":
            raise too_deep(path, "16 bits")
        if _PNG_END not in data:
            raise DataError("the image is damaged: its end is missing", where=path, fix=DAMAGED)
        chunks = _chunks_before_data(data)
        if chunks.get(b"cICP", _CICP_SRGB)[:2] != _CICP_SRGB:
            raise DataError(
                "the image is coded for other displays than sRGB (it has a cICP chunk)",
                where=path,
                fix="save it as 8-bit sRGB",
            )
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            check_size(image.width, image.height, path, max_megapixels)
            image.load()
            if image.mode.startswith(("I", "F")):
                raise too_deep(path, image.mode)
            decoded = _with_colours(_decoded(image, data, path), image, chunks)
            return _with_first_picture(decoded, image).oriented(_orientation(image))
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            "the image is so large that it may be a decompression bomb", where=path, fix="cut it into tiles"
        ) from error
    except UnidentifiedImageError as error:
        if (bits := _jpeg_bits(data)) not in (None, 8):
            raise too_deep(path, f"{bits} bits") from error
        # Pillow's own words hold an address in memory.
        raise DataError("the image is damaged: its header cannot be read", where=path, fix=DAMAGED) from error
    # Damaged files make Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise DataError(f"the image is damaged: {error}", where=path, fix=DAMAGED) from error


_KINDS: Final[dict[str, Kind]] = {
    "RGB": "rgb",
    "1": "grey",
    "L": "grey",
    "P": "palette",
    "LA": "alpha",
    "PA": "alpha",
    "RGBA": "alpha",
    "CMYK": "ink",
}


def _decoded(image: Any, data: bytes, path: Path) -> Decoded:
    mode = image.mode
    if mode not in _KINDS:
        raise not_rgb(path, f"they are {mode}")
    stored = np.array(image, dtype=np.uint8)
    decoded = Decoded(_KINDS[mode], stored, stored)
    if mode in ("LA", "RGBA", "PA"):
        alpha = stored[..., -1]
        colours = np.array(image.convert("RGB"), dtype=np.uint8)
        decoded = replace(decoded, rgb=colours, remarks=opacity_remark(alpha))
        return decoded.with_missing(alpha == 0)
    if mode == "P":
        # Through the palette itself: a conversion of a palette with transparency makes Pillow warn.
        palette = np.zeros((256, 3), dtype=np.uint8)
        colours = np.frombuffer(bytes(image.getpalette("RGB") or b""), dtype=np.uint8).reshape(-1, 3)
        palette[: len(colours)] = colours
        decoded = replace(decoded, rgb=palette[stored])
    elif mode != "RGB":
        decoded = replace(decoded, rgb=np.array(image.convert("RGB"), dtype=np.uint8))
    if mode == "L" and data.startswith(PNG) and data[24] in (2, 4):
        # Pillow spreads 2 and 4 bits over the range of greys; the values themselves may be class indices.
        decoded = replace(decoded, stored=stored // (255 // (2 ** data[24] - 1)))
    key = image.info.get("transparency")
    if key is None:
        return decoded
    # Whether Pillow gives the key of an image of one bit as 1 or as 255 differs from version to version.
    return _with_key(decoded, int(bool(key)) if mode == "1" else key)


def _with_key(decoded: Decoded, key: Any) -> Decoded:
    """Take the colour, grey value or palette entries that a PNG calls transparent for pixels without data."""
    stored = decoded.stored
    if isinstance(key, bytes):
        opacity = np.full(256, 255, dtype=np.uint8)
        opacity[: len(key)] = np.frombuffer(key[:256], dtype=np.uint8)
        alpha = opacity[stored]
        return replace(decoded, remarks=opacity_remark(alpha)).with_missing(alpha == 0)
    missing = (stored == np.array(key)).reshape(*stored.shape[:2], -1).all(axis=2)
    return decoded.with_missing(missing)


def _with_colours(decoded: Decoded, image: Any, chunks: dict[bytes, bytes]) -> Decoded:
    """Bring the colours to sRGB, by the profile or else by the gamma that the file declares."""
    profile, mode = image.info.get("icc_profile"), image.mode
    if profile:
        if mode == "CMYK":
            pixels, space = decoded.stored, "CMYK"
        elif mode in ("L", "LA", "1"):
            pixels, space = np.ascontiguousarray(decoded.rgb[..., 0]), "L"
        else:
            pixels, space = decoded.rgb, "RGB"
        converted, remark = to_srgb(pixels, space, profile)
    elif b"gAMA" in chunks and b"sRGB" not in chunks and len(chunks[b"gAMA"]) == 4:
        gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / 100_000
        table = gamma_table(gamma)
        converted = None if table is None else table[decoded.rgb]
        remark = "" if table is None else f"its colours are brought from gamma {gamma:g} to sRGB"
    else:
        converted, remark = None, ""
    if mode == "CMYK" and converted is None:
        remark = "its inks (CMYK) are turned into colours without a profile"
    remarks = (*decoded.remarks, remark) if remark else decoded.remarks
    rgb = decoded.rgb if converted is None else converted
    return replace(decoded, rgb=rgb, remarks=remarks).with_missing(decoded.missing)


def _with_first_picture(decoded: Decoded, image: Any) -> Decoded:
    if image.format != "PNG" or not getattr(image, "is_animated", False):
        return decoded
    return replace(decoded, remarks=(*decoded.remarks, f"the first of its {image.n_frames} pictures is taken"))


def _orientation(image: Any) -> int:
    if "exif" in image.info:
        warnings.filterwarnings("ignore", module=r"PIL\.(TiffImagePlugin|Image)$")
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    # Viewers pass over Exif data that they cannot read; Pillow raises whatever its parser stumbles on.
    except Exception:
        return 1


def _chunks_before_data(data: bytes) -> dict[bytes, bytes]:
    """Return the chunks of a PNG up to its pixels, by name."""
    chunks: dict[bytes, bytes] = {}
    place = len(PNG)
    while place + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        if name == b"IDAT":
            break
        chunks.setdefault(name, data[place + 8 : place + 8 + length])
        place += 12 + length
    return chunks


def _jpeg_bits(data: bytes) -> int | None:
    """Return the bits per channel that a JPEG's frame header states; None if it has none."""
    place = 2
    while data.startswith(JPEG) and place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[place + 4]
        place += 2 + length
    return None
