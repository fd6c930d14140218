"""The two images of a pair, read and compared: the one place that decides for `prepare` and `describe`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pipeline.datasets.images import MAX_MEGAPIXELS, ImageFile, read_image
from pipeline.datasets.raster.georeference import difference
from pipeline.datasets.raster.sidecars import look_beside
from pipeline.datasets.settings import MismatchKind

WARP: Final = "warp both dates to the same grid of pixels (`gdalwarp`)"


@dataclass(frozen=True)
class Contradiction:
    """Something in which the two images of a pair contradict each other.

    Attributes:
        kind: Its name in the audit.
        what: What it is; it may follow "the two images".
        fix: What to do about it.
    """

    kind: MismatchKind
    what: str
    fix: str | None = None


def read_date(path: Path, *, convert: bool = False, max_megapixels: float = MAX_MEGAPIXELS) -> ImageFile:
    """Read an image as `read_image` does, with what files beside it say.

    Raises:
        DataError: As `read_image`; or by a file beside it, its pixels would have to be turned or ordered otherwise.
    """
    image = read_image(path, convert=convert, max_megapixels=max_megapixels)
    grid, remarks = look_beside(path, image.georeference)
    return replace(image, georeference=grid, remarks=(*image.remarks, *remarks))


def compare_dates(before: ImageFile, after: ImageFile) -> Contradiction | None:
    """Compare the sizes of two images, and where both carry coordinates, the ground that they cover."""
    sizes = [f"{image.pixels.shape[1]}×{image.pixels.shape[0]}" for image in (before, after)]
    if sizes[0] != sizes[1]:
        what = f"differ in size: {sizes[0]} before, {sizes[1]} after"
        return Contradiction("size-mismatch", what, "bring both dates to the same grid of pixels")
    if before.georeference is None and after.georeference is None:
        return None
    if before.georeference is None or after.georeference is None:
        bearer = "earlier" if after.georeference is None else "later"
        what = f"cannot be compared by the ground that they cover: only the {bearer} one carries coordinates"
        return Contradiction("georeference-missing", what)
    unlike = difference(before.georeference, after.georeference)
    if unlike is None:
        return None
    return Contradiction("georeference-mismatch", f"do not cover the same ground: {unlike}", WARP)


def nodata_remark(image: ImageFile) -> str | None:
    """Say how many of an image's pixels have no data; None if all have."""
    if not image.missing:
        return None
    count = round(image.missing * image.pixels.shape[0] * image.pixels.shape[1])
    return f"{count:,} of its pixels ({image.missing:.1%}) have no data (nodata, masked, transparent) and are black"
