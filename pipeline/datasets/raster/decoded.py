"""A decoded image, and the errors that all formats share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.raster.georeference import Georeference
from pipeline.errors import DataError

DAMAGED: Final = "replace the file by a whole copy"

Kind = Literal["rgb", "grey", "palette", "alpha", "bands", "ink", "other"]


@dataclass(frozen=True)
class Decoded:
    """An image as its file stores it, and as viewers show it.

    Attributes:
        kind: What the file holds: red, green and blue; grey; a palette; with transparency; with further bands; inks
            (CMYK); or something that cannot be shown as colours.
        stored: Values as stored, uint8, (H, W) or (H, W, C): class indices, where the image is a mask.
        rgb: Colours without transparency, uint8, (H, W, 3); pixels without data are black.
        missing: Pixels without data (nodata, masked, fully transparent), (H, W); None if every pixel has data.
        georeference: Where the pixels lie; None if the file does not say.
        remarks: What was done to the pixels, or what the file says that was not followed.
        problem: `kind` is `other`: what is odd about it.
    """

    kind: Kind
    stored: NDArray[np.uint8]
    rgb: NDArray[np.uint8]
    missing: NDArray[np.bool_] | None = None
    georeference: Georeference | None = None
    remarks: tuple[str, ...] = ()
    problem: str = ""

    def oriented(self, orientation: int) -> Decoded:
        """Return the image turned by an Exif orientation, 1 to 8; 1 and unknown values leave it."""
        if orientation not in range(2, 9):
            return self
        missing = None if self.missing is None else orient(self.missing, orientation)
        rgb, stored = orient(self.rgb, orientation), orient(self.stored, orientation)
        return replace(self, rgb=rgb, stored=stored, missing=missing)

    def with_missing(self, missing: NDArray[np.bool_] | None) -> Decoded:
        """Return the image with the pixels of `missing`, (H, W), black: one value for them, whatever a file stores."""
        if missing is None or not missing.any():
            return self
        rgb = np.where(missing[..., None], np.uint8(0), self.rgb)
        return replace(self, rgb=rgb, missing=missing)


def orient(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an array (H, W, …) as an Exif orientation, 2 to 8, asks for."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    # Orientations by the sides on which the stored first row and column are to be seen, after the transposition.
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def opacity_remark(alpha: NDArray[np.uint8]) -> tuple[str, ...]:
    """Say how many pixels are partly transparent: viewers blend them with a background, which an image has not."""
    partial = int(((alpha > 0) & (alpha < 255)).sum())
    share = f"{partial:,} of its pixels ({partial / alpha.size:.1%}) are partly transparent"
    return (f"{share}; their colours are taken as if they were opaque",) if partial else ()


def check_size(width: int, height: int, path: Path, max_megapixels: float) -> None:
    """Raise if an image is too large to be decoded.

    Raises:
        DataError: It has more than `max_megapixels`.
    """
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise DataError(
            f"the image has {width}×{height} pixels, {megapixels:.1f} megapixels; the limit is {max_megapixels:g}",
            where=path,
            fix="cut it into tiles, or raise prepare.max_megapixels",
        )


def not_rgb(path: Path, problem: str) -> DataError:
    """Return the error for an image whose values are no colours; `problem` says what they are."""
    what = "the bands of the image cannot be taken for red, green and blue"
    return DataError(f"{what}: {problem}" if problem else what, where=path, fix="convert it to 8-bit RGB")


def too_deep(path: Path, values: str) -> DataError:
    """Return the error for an image of more than 8 bits; `values` says which ("uint16")."""
    return DataError(
        f"the image has more than 8 bits per channel ({values})",
        where=path,
        fix="scale it to 8-bit RGB yourself: which range of values to keep is a choice that sagecc does not make",
    )
