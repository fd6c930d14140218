"""TIFF and GeoTIFF files as viewers show them."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.raster.colours import to_srgb
from pipeline.datasets.raster.decoded import DAMAGED, Decoded, Kind, check_size, not_rgb, opacity_remark, too_deep
from pipeline.datasets.raster.georeference import PLAY, Georeference
from pipeline.errors import DataError

SIGNATURES: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Tags of the TIFF 6.0 specification, and of ICC.
_PHOTOMETRIC, _ORIENTATION, _EXTRA_SAMPLES, _PROFILE = 262, 274, 338, 34675
_LAB: Final = {8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32844: "LogL", 32845: "LogLuv"}
_PREMULTIPLIED: Final = 1

_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_MEMORY_NAME: Final = re.compile(rf"(?:/vsimem/)?{_UUID}(?:/{_UUID})?(?:\.\w*)?")


def decode(data: bytes, path: Path, max_megapixels: float) -> Decoded:
    """Decode a TIFF file.

    Bands are put in the order red, green, blue by what the file calls them; values of less than 8 bits are spread over
    the range; MinIsWhite is inverted; pixels of the nodata value, of its mask or of alpha 0 count as pixels without
    data. Rows and columns are turned north-up by the coordinates, or, where there are none, by the tag Orientation.

    Raises:
        DataError: It is damaged, too large, has values other than unsigned ones of up to 8 bits, or cannot be shown.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    # Images without coordinates are the rule here. Set once and for all: `catch_warnings` is not safe among threads.
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")
    try:
        # Named driver: a file that only pretends to be a TIFF could point GDAL at other files or addresses.
        with rasterio.MemoryFile(data) as memory, memory.open(driver="GTiff") as source:
            check_size(source.width, source.height, path, max_megapixels)
            _check_values(source, path)
            tags = _tags(data)
            bands = _Bands.of(source, tags)
            if bands.problem and source.count > 4:
                raise not_rgb(path, bands.problem)
            decoded = _read(source, bands, tags)
            if len(pages := source.subdatasets) > 1:
                remark = f"the first of its {len(pages)} pictures (pages) is taken"
                decoded = replace(decoded, remarks=(*decoded.remarks, remark))
            grid = georeference_of(source)
            if grid is None and (source.gcps[0] or source.rpcs):
                remark = "its control points or RPCs make no regular grid, and its pixels stay as they are"
                decoded = replace(decoded, remarks=(*decoded.remarks, remark))
            return place(decoded, grid, int(tags.get(_ORIENTATION, 1)))
    except DataError:
        raise
    # Beside RasterioError, properties of a damaged file raise GDAL's own errors, which share no public class.
    except Exception as error:
        # GDAL calls the file by a random name that it has in memory; the same file is to give the same audit.json.
        words = _MEMORY_NAME.sub(lambda _: path.name, str(error))
        if "codec" in words:
            what = f"the image is compressed in a way that this installation cannot read: {words}"
            raise DataError(what, where=path, fix="save it with LZW or deflate compression") from error
        raise DataError(f"the image is damaged: {words}", where=path, fix=DAMAGED) from error


def _check_values(source: Any, path: Path) -> None:
    odd = next((dtype for dtype in source.dtypes if dtype != "uint8"), None)
    if odd == "int8":
        raise DataError(
            "the image has signed values (int8), which are no colours", where=path, fix="convert it to 8-bit RGB"
        )
    if odd is not None:
        bits = source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
        raise too_deep(path, f"{bits} bits in {odd}" if bits else odd)


def _tags(data: bytes) -> Mapping[int, Any]:
    """Return the tags of the first image; none where the directory cannot be read as GDAL reads it."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        big = data[2:4] in (b"+\0", b"\0+")
        directory = ImageFileDirectory_v2(data[: 16 if big else 8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        return {
            tag: directory[tag] for tag in (_PHOTOMETRIC, _ORIENTATION, _EXTRA_SAMPLES, _PROFILE) if tag in directory
        }
    # Pillow raises what its parser stumbles on; whether the file is damaged is for GDAL to say.
    except Exception:
        return {}


@dataclass(frozen=True)
class _Bands:
    """Which bands of a file are shown.

    Attributes:
        kind: What the file holds.
        colours: Numbers of the bands (from 1): red, green, blue; or the one of grey or palette indices.
        alpha: Number of the band of opacity; None without one.
        bits: Bits of the colours' values.
        inverted: Whether the least value is white.
        premultiplied: Whether colours are stored multiplied by opacity.
        problem: Why they cannot be shown, where they cannot.
        remarks: What the file says about its bands that is not followed.
    """

    kind: Kind
    colours: tuple[int, ...]
    alpha: int | None
    bits: int
    inverted: bool
    premultiplied: bool
    problem: str = ""
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, source: Any, tags: Mapping[int, Any]) -> _Bands:
        from rasterio.enums import ColorInterp

        meanings = source.colorinterp
        alphas = [number for number, meaning in enumerate(meanings, start=1) if meaning == ColorInterp.alpha]
        others = [number for number in range(1, len(meanings) + 1) if number not in alphas]
        kind, colours, problem = _colour_bands(meanings, others)
        if kind == "rgb" and alphas:
            kind = "alpha"
        photometric = int(tags.get(_PHOTOMETRIC, -1))
        if photometric in _LAB:
            kind, problem = "other", f"they are {_LAB[photometric]}"
        structure = source.tags(ns="IMAGE_STRUCTURE")
        inverted = structure.get("MINISWHITE") == "YES" and kind == "grey"
        if structure.get("MINISWHITE") == "YES" and len(others) > 1:
            kind, problem = "other", "the least value is white (MinIsWhite), which is for grey images"
        if kind == "grey" and alphas:
            kind = "alpha"
        if structure.get("SOURCE_COLOR_SPACE") == "CMYK":
            kind = "ink"
        extra = tags.get(_EXTRA_SAMPLES, ())
        bits = int(source.tags(colours[0], ns="IMAGE_STRUCTURE").get("NBITS", 8))
        remarks = _band_remarks(source, colours) if len(colours) == 3 and not problem else ()
        return cls(
            kind,
            colours,
            alphas[0] if alphas else None,
            bits,
            inverted,
            _PREMULTIPLIED in (extra if isinstance(extra, tuple) else (extra,)),
            problem,
            remarks,
        )


def _colour_bands(meanings: Any, others: list[int]) -> tuple[Kind, tuple[int, ...], str]:
    """Choose the bands that are shown, of those that are not opacity, by what the file calls them."""
    from rasterio.enums import ColorInterp

    named = {meaning: number for number, meaning in enumerate(meanings, start=1)}
    if len(others) == 1:
        return ("palette" if meanings[others[0] - 1] == ColorInterp.palette else "grey"), tuple(others), ""
    primaries = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(list(meanings).count(primary) == 1 for primary in primaries):
        return ("rgb" if len(others) == 3 else "bands"), tuple(named[primary] for primary in primaries), ""
    unnamed = all(meanings[number - 1] in (ColorInterp.undefined, ColorInterp.gray) for number in others)
    if len(others) == 3 and unnamed:
        # Nothing is said of the order: viewers take that of the file.
        return "rgb", tuple(others), ""
    names = ", ".join(meaning.name for meaning in meanings[:8]) + (", …" if len(meanings) > 8 else "")
    return "other", tuple(others[:3]) or (1,), f"the file has {len(meanings)} bands and calls them {names}"


_WORDS: Final = {"red": "red", "r": "red", "green": "green", "g": "green", "blue": "blue", "b": "blue"}


def _band_remarks(source: Any, colours: tuple[int, ...]) -> tuple[str, ...]:
    remarks = []
    names = [_WORDS.get((source.descriptions[number - 1] or "").strip().lower(), "") for number in colours]
    if all(names) and names != ["red", "green", "blue"]:
        shown = ", ".join(source.descriptions[number - 1] for number in colours)
        remarks.append(f"the bands that it marks as red, green and blue have the descriptions {shown}")
    scaling = {(source.scales[number - 1], source.offsets[number - 1]) for number in colours}
    if len(scaling) > 1:
        remarks.append("its bands have different scales and offsets, which are not applied")
    return tuple(remarks)


def _read(source: Any, bands: _Bands, tags: Mapping[int, Any]) -> Decoded:
    """Read the pixels in the file's own order of rows and columns."""
    # What cannot be shown is read whole: as a mask it may still be read.
    shown = bands.colours if bands.alpha is None else (*bands.colours, bands.alpha)
    numbers = list(range(1, source.count + 1)) if bands.problem else list(shown)
    stored = np.ascontiguousarray(np.moveaxis(source.read(numbers), 0, -1))
    if stored.shape[2] == 1:
        stored = stored[..., 0]
    if bands.problem:
        return Decoded("other", stored, np.zeros((*stored.shape[:2], 3), dtype=np.uint8), problem=bands.problem)
    alpha = stored[..., -1] if bands.alpha else None
    colours = stored if alpha is None else stored[..., : len(bands.colours)]
    missing = _missing(source, bands, colours, alpha)
    if len(bands.colours) == 1:
        colours = colours.reshape(stored.shape[:2])
    remarks = bands.remarks if alpha is None else (*bands.remarks, *opacity_remark(alpha))
    if bands.kind == "palette":
        palette = np.zeros((256, 4), dtype=np.uint8)
        for number, colour in source.colormap(bands.colours[0]).items():
            palette[number] = colour
        rgb = palette[colours][..., :3]
    else:
        if bands.bits < 8:
            colours = _spread(colours, bands.bits)
        if bands.inverted:
            colours = 255 - colours
        rgb = np.repeat(colours[..., None], 3, axis=2) if colours.ndim == 2 else colours
    if alpha is not None and bands.premultiplied:
        rgb = _divided(rgb, alpha)
    if bands.kind == "ink":
        remarks = (*remarks, "its inks (CMYK) are turned into colours without a profile")
    elif (profile := tags.get(_PROFILE)) is not None:
        space = "L" if len(bands.colours) == 1 and bands.kind != "palette" else "RGB"
        pixels = np.ascontiguousarray(rgb[..., 0] if space == "L" else rgb)
        converted, remark = to_srgb(pixels, space, bytes(profile))
        rgb = rgb if converted is None else converted
        remarks = (*remarks, remark) if remark else remarks
    return Decoded(bands.kind, stored, np.ascontiguousarray(rgb), remarks=remarks).with_missing(missing)


def _missing(
    source: Any, bands: _Bands, colours: NDArray[np.uint8], alpha: NDArray[np.uint8] | None
) -> NDArray[np.bool_] | None:
    """Return the pixels without data: of the nodata value in every band shown, masked, or of opacity 0."""
    from rasterio.enums import MaskFlags

    missing: NDArray[np.bool_] | None = None if alpha is None else alpha == 0
    nodata = [source.nodatavals[number - 1] for number in bands.colours]
    if all(value is not None for value in nodata):
        values = colours.reshape(*colours.shape[:2], -1)
        equal = (values == np.array(nodata)).all(axis=2)
        missing = equal if missing is None else missing | equal
    flags = source.mask_flag_enums[bands.colours[0] - 1]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        masked = source.read_masks(bands.colours[0]) == 0
        missing = masked if missing is None else missing | masked
    return missing


def _spread(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Spread values of less than 8 bits over 0 to 255."""
    table = np.rint(np.minimum(np.arange(256), 2**bits - 1) * (255 / (2**bits - 1))).astype(np.uint8)
    spread: NDArray[np.uint8] = table[values]
    return spread


def _divided(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the colours of a premultiplied image."""
    opacity = np.maximum(alpha, 1)[..., None].astype(np.uint32)
    divided = (rgb.astype(np.uint32) * 255 + opacity // 2) // opacity
    colours: NDArray[np.uint8] = np.minimum(divided, 255).astype(np.uint8)
    return colours


def georeference_of(source: Any) -> Georeference | None:
    """Return the grid of an open rasterio data set, from its transform or else from its ground control points."""
    from rasterio.transform import from_gcps

    transform, crs = source.transform, source.crs
    points, points_crs = source.gcps
    if transform.is_identity and len(points) >= 3:
        fitted = from_gcps(points)
        if _fits(fitted, points):
            transform, crs = fitted, points_crs
    values = tuple(float(value) for value in transform[:6])
    if transform.is_identity or transform.is_degenerate or not np.isfinite(values).all():
        return None
    a, b, c, d, e, f = values
    return Georeference(crs or None, (a, b, c, d, e, f), source.height, source.width)


def _fits(transform: Any, points: Any) -> bool:
    """Whether a transform puts every ground control point to within half a pixel of where the file has it."""
    if transform.is_degenerate:
        return False
    ground = np.array([(point.x, point.y, 1) for point in points], dtype=np.float64)
    pixels = np.array([(point.col, point.row, 1) for point in points], dtype=np.float64)
    offsets = ground @ np.linalg.inv(np.array(transform, dtype=np.float64).reshape(3, 3)).T - pixels
    return bool(np.hypot(offsets[:, 0], offsets[:, 1]).max() <= PLAY)


def place(decoded: Decoded, georeference: Georeference | None, orientation: int) -> Decoded:
    """Turn an image north-up by its coordinates; without any, as its tag Orientation says."""
    if georeference is None:
        return decoded.oriented(orientation)
    turn, grid = georeference.north_up()
    turned = (f"it is {TURNS[turn]}, as its coordinates ask for, so that north is up",) if turn != 1 else ()
    remarks = (*decoded.remarks, *turned, *rotation_remarks(grid))
    return replace(decoded.oriented(turn), georeference=grid, remarks=remarks)


def rotation_remarks(grid: Georeference) -> tuple[str, ...]:
    """Say how far a grid from `Georeference.north_up` is turned or sheared; nothing where it is straight."""
    if grid.is_straight:
        return ()
    return (f"its rows run {abs(grid.rotation):.1f}° off east–west, and its pixels stay so",)


TURNS: Final = {
    2: "mirrored left to right",
    3: "turned by 180°",
    4: "mirrored top to bottom",
    5: "mirrored along its diagonal",
    6: "turned by 90° clockwise",
    7: "mirrored along its other diagonal",
    8: "turned by 90° anticlockwise",
}
