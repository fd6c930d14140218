"""Pictures of the tests, and files written by hand that no library writes."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from pipeline.datasets.raster.png_jpeg import PNG
from tests.datasets.fakes import picture

PIXELS = picture(np.random.default_rng(1))[:24]
"""An image, (24, 32, 3), that no turn or flip leaves as it is."""
GREY = np.rint(PIXELS.mean(axis=2)).astype(np.uint8)
NORTH_UP = Affine(2.0, 0.0, 500_000.0, 0.0, -2.0, 4_000_000.0)
"""Pixels of 2 m in UTM."""
UTM = "EPSG:32636"


def tiff(
    path: Path,
    bands: NDArray[Any],
    *,
    meanings: tuple[ColorInterp, ...] = (),
    mask: NDArray[np.bool_] | None = None,
    **options: Any,
) -> Path:
    """Write a TIFF of `bands`, (H, W) or (H, W, C), with GDAL."""
    bands = np.moveaxis(np.atleast_3d(bands), -1, 0)
    shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", **shape, **options) as file,
    ):
        if meanings:
            file.colorinterp = meanings
        file.write(bands)
        if mask is not None:
            file.write_mask(mask)
    return path


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(path: Path, rows: NDArray[np.uint8], depth: int, colour_type: int, *chunks: bytes) -> Path:
    """Write a PNG whose rows are packed already, with further chunks before its pixels.

    Args:
        path: The file.
        rows: Bytes of each row, (H, bytes).
        depth: Bits per sample.
        colour_type: 0 grey, 2 RGB, 3 palette.
        chunks: See `chunk`.
    """
    width = rows.shape[1] * 8 // (depth * (3 if colour_type == 2 else 1))
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    path.write_bytes(PNG + b"".join(parts))
    return path


def profile(primaries: tuple[str, str, str], gamma: float) -> bytes:
    """Return an ICC profile, version 2, of the primaries of sRGB in another order, and a gamma."""
    xyz = {"r": (0.4361, 0.2225, 0.0139), "g": (0.3851, 0.7169, 0.0971), "b": (0.1431, 0.0606, 0.7141)}

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    text = b"swapped\0"
    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(gamma * 256), 0)
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 78,
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249),
    }
    for name, primary in zip("rgb", primaries, strict=True):
        tags[name.encode() + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*xyz[primary])
        tags[name.encode() + b"TRC"] = curve
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
