"""What a file holds that is not what was expected, told by its first bytes: pointers, pages, archives and others."""

from __future__ import annotations

import re
from typing import Final

_SIGNATURES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"8BPS", "a Photoshop document"),
    (b"\0\0\1\0", "an ICO image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"%PDF", "a PDF document"),
    (b"PK\3\4", "a zip archive"),
    (b"PK\5\6", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 or netCDF file"),
    (b"CDF", "a netCDF file"),
    (b"GRIB", "a GRIB file"),
    (b"NITF", "a NITF image"),
    (b"SQLite format 3\0", "an SQLite database (GeoPackage or MBTiles)"),
    (b"PAR1", "a Parquet file"),
    (b"msid", "a MrSID image"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"qoif", "a QOI image"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
)
_BRANDS: Final = {b"avif": "an AVIF image", b"avis": "an AVIF image"}
_HEIF: Final = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"})

_CONVERT: Final = "convert it to PNG, JPEG or GeoTIFF"
_WHOLE: Final = "replace the file by a whole copy"
_DOWNLOAD: Final = "download the file again: a server gave a page (of an error, or for signing in) in its place"


def name_contents(data: bytes) -> tuple[str, str]:
    """Say what a file holds that is no PNG, JPEG or TIFF image, and what to do about it.

    Args:
        data: The file's bytes; the first thousand are enough.

    Returns:
        What it is ("a Git LFS pointer"), "" if that cannot be told; and what to do.
    """
    if (riff := data[:12])[:4] == b"RIFF" and riff[8:] == b"WEBP":
        return "a WebP image", _CONVERT
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return _BRANDS.get(brand, "a HEIF image" if brand in _HEIF else "a video or HEIF file"), _CONVERT
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name, "unpack it" if name.endswith("archive") else _CONVERT
    if data[257:262] == b"ustar":
        return "a tar archive", "unpack it"
    if not any(data[:1024]):
        return "a file of zeros", _WHOLE
    name, fix = name_text(data) or ("", "")
    return name, fix or _WHOLE


def name_text(data: bytes) -> tuple[str, str] | None:
    """Say which kind of text a file holds, and what to do about it: what stands in the place of a large binary file.

    Args:
        data: The file's bytes; the first thousand are enough.

    Returns:
        What it is, and the advice, "" where there is none but that of any damaged file; None if it is no text.
    """
    text = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text or not all(byte >= 32 or byte in b"\t\n\r\f" for byte in text):
        return None
    lower = text.lower()
    if text.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer", "fetch the file itself with `git lfs pull`"
    if re.match(rb"(/annex/objects/|(\.\./)*\.git/annex/objects/)", text):
        return "a git-annex pointer", "fetch the file itself with `git annex get`"
    if lower.startswith(b"outs:") and b"md5:" in lower:
        return "a DVC pointer", "fetch the file itself with `dvc pull`"
    if re.match(rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<!doctype html|(<\?xml[^>]*>\s*)?<html|<head|<body", lower, re.S):
        return "an HTML page", _DOWNLOAD
    if lower.startswith(b"<vrtdataset"):
        return "a GDAL virtual raster", "write the pixels that it points at to a GeoTIFF (`gdal_translate`)"
    if b"<svg" in lower:
        return "an SVG drawing", _CONVERT
    if text.startswith(b"<"):
        return "an XML document", _DOWNLOAD
    if text.startswith((b"{", b"[")):
        return "a JSON text", _DOWNLOAD
    if re.fullmatch(rb"[^\n\0]{1,255}\.(png|jpe?g|tiff?)\s*", text, re.I):
        return "the path of another file (a link that was stored as text)", "put the image itself there"
    return "a text", ""
