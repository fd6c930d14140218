from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from pipeline.contents import name_contents
from pipeline.datasets.images import read_rgb
from pipeline.errors import DataError
from tests.datasets.raster.pictures import PIXELS


def _saved(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, form)
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", b"x")
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    return buffer.getvalue()


def _numpy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, PIXELS)
    return buffer.getvalue()


def _hdf5() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["x"] = PIXELS
    return buffer.getvalue()


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1\nsize 12345\n"
)
ERROR = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'

CASES = [
    (POINTER, "a Git LFS pointer", "git lfs pull"),
    (b"/annex/objects/SHA256E-s1--ab.png\n", "a git-annex pointer", "git annex get"),
    (b"../../.git/annex/objects/aa/bb/SHA256E-s1--ab.png", "a git-annex pointer", "git annex get"),
    (b"outs:\n- md5: d8e8fca2dc0f896fd7cb4cb0031ba249\n  path: a.png\n", "a DVC pointer", "dvc pull"),
    (b"<!DOCTYPE html>\n<html><body>Not found</body></html>", "an HTML page", "download the file again"),
    (b"\xef\xbb\xbf\n  <HTML>", "an HTML page", "download the file again"),
    (b'<?xml version="1.0"?>\n<!-- x -->\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0">', "an HTML page", "again"),
    (ERROR, "an XML document", "download the file again"),
    (b'{"message": "Bad credentials"}', "a JSON text", "download the file again"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing", "convert"),
    (b"<VRTDataset rasterXSize='1'/>", "a GDAL virtual raster", "gdal_translate"),
    (b"../shared/a.png", "the path of another file", "put the image itself there"),
    (b"hello\n", "a text", "whole copy"),
    (b"\0" * 4096, "a file of zeros", "whole copy"),
    (_saved("WEBP"), "a WebP image", "convert"),
    (_saved("GIF"), "a GIF image", "convert"),
    (_saved("BMP"), "a BMP image", "convert"),
    (_saved("JPEG2000"), "a JPEG 2000 image", "convert"),
    (_saved("PDF"), "a PDF document", "convert"),
    (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIF image", "convert"),
    (b"\0\0\0\x18ftypavif\0\0\0\0", "an AVIF image", "convert"),
    (b"\0\0\0\x18ftypisom\0\0\0\0", "a video or HEIF file", "convert"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image", "convert"),
    (_zip(), "a zip archive", "unpack"),
    (_tar(), "a tar archive", "unpack"),
    (b"\x1f\x8b\x08\0", "a gzip archive", "unpack"),
    (_numpy(), "a NumPy array", "convert"),
    (_hdf5(), "an HDF5 or netCDF file", "convert"),
    (b"SQLite format 3\0", "an SQLite database", "convert"),
]


@pytest.mark.parametrize(("data", "name", "fix"), CASES, ids=[case[1].replace(" ", "-") for case in CASES])
def test_what_is_no_image_is_called_by_its_name(tmp_path: Path, data: bytes, name: str, fix: str) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=f"not a PNG, JPEG or TIFF image but {name}") as caught:
        read_rgb(tmp_path / "a.png")
    assert fix in str(caught.value.fix)


def test_what_cannot_be_told_has_no_name(tmp_path: Path) -> None:
    assert name_contents(b"\x07\x93\xfe\x01")[0] == ""
    (tmp_path / "a.png").write_bytes(b"\x07\x93\xfe\x01")
    with pytest.raises(DataError, match=r"not a PNG, JPEG or TIFF image\n"):
        read_rgb(tmp_path / "a.png")
