"""What files beside an image say about it: world files, GDAL's `.aux.xml`, masks of their own (`.msk`).

They are compared and told, and never change pixels: the hash of an image covers its own bytes alone. Where a file
beside an image would have its pixels turned or ordered otherwise, the image is refused with words.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

from pipeline.datasets.raster import png_jpeg, tiff
from pipeline.datasets.raster.georeference import Georeference, difference
from pipeline.errors import DataError

_WORLD: Final = {
    ".png": ("pgw", "pngw"),
    ".jpg": ("jgw", "jpgw"),
    ".jpeg": ("jgw", "jpegw"),
    ".tif": ("tfw", "tifw"),
    ".tiff": ("tfw", "tiffw"),
}
"""Endings of world files, by that of their image."""

_FIX: Final = "write it to a GeoTIFF, which holds all of this itself (`gdalwarp`, `gdal_translate`)"


def sidecars_of(path: Path) -> list[Path]:
    """Return the files beside an image that speak of it, where they exist."""
    names = [f"{path.name}.aux.xml", f"{path.name}.msk"]
    for ending in (*_WORLD.get(path.suffix.lower(), ()), "wld"):
        names += [f"{path.stem}.{ending}", f"{path.stem}.{ending.upper()}"]
    return [path.with_name(name) for name in names if path.with_name(name).is_file()]


def look_beside(path: Path, own: Georeference | None) -> tuple[Georeference | None, tuple[str, ...]]:
    """Read what files beside an image say.

    Args:
        path: The image, which can be read.
        own: The grid that it holds itself.

    Returns:
        Its grid, north-up; and remarks.

    Raises:
        DataError: By the files beside it the image would have to be turned, or its bands ordered otherwise; or one of
            them is damaged.
    """
    files = sidecars_of(path)
    if not files:
        return own, ()
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    # As in `tiff.decode`: images without coordinates are the rule.
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

    data = path.read_bytes()
    driver = "PNG" if data.startswith(png_jpeg.PNG) else "JPEG" if data.startswith(png_jpeg.JPEG) else "GTiff"
    names = ", ".join(file.name for file in files)
    try:
        with (
            rasterio.MemoryFile(data) as memory,
            memory.open(driver=driver) as inner,
            rasterio.open(path.absolute(), driver=driver) as outer,
        ):
            if inner.colorinterp != outer.colorinterp:
                what = f"the bands have another meaning by the file beside the image ({names})"
                raise DataError(what, where=path, fix=_FIX)
            remarks = _data_remarks(inner, outer, names)
            grid, more = _grid(own, tiff.georeference_of(outer), names, path)
            return grid, (*remarks, *more)
    except DataError:
        raise
    # As in `tiff.decode`.
    except Exception as error:
        what = f"a file beside the image cannot be read ({names}): {error}"
        raise DataError(what, where=path, fix="correct it or take it away") from error


def _data_remarks(inner: Any, outer: Any, names: str) -> tuple[str, ...]:
    if inner.nodatavals == outer.nodatavals and inner.mask_flag_enums == outer.mask_flag_enums:
        return ()
    missing = outer.dataset_mask() == 0
    share = f"{int(missing.sum()):,} of its pixels ({missing.mean():.1%})"
    return (f"{share} have no data by a file beside it ({names}); they are taken as they are stored",)


def _grid(
    own: Georeference | None, beside: Georeference | None, names: str, path: Path
) -> tuple[Georeference | None, tuple[str, ...]]:
    if beside is None:
        return own, ()
    turn, grid = beside.north_up()
    if own is not None:
        other = difference(own, grid)
        return (own, (f"its own coordinates are taken, not those of {names}",)) if other else (grid, ())
    if turn != 1:
        what = f"by the file beside the image ({names}) it is not north-up: it would have to be {tiff.TURNS[turn]}"
        raise DataError(what, where=path, fix=_FIX)
    return grid, tiff.rotation_remarks(grid)
