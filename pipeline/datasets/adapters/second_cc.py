"""SECOND-CC: 6,041 pairs with semantic maps of both dates, five captions each (Karaca et al., JSTARS 2025).

Layout: `{train,val,test}/{rgb,sem}/{A,B}/*.png` and `SECOND-CC-AUG.json`. The semantic maps are stored as colours and
decoded by exact colour.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.adapters.base import DatasetAdapter, Profile, find_captions
from pipeline.datasets.audit import Audit
from pipeline.datasets.caption_files import read_captions
from pipeline.datasets.images import MAX_MEGAPIXELS, read_rgb
from pipeline.datasets.listing import Listing, MaskField, attach, join, list_images, split_layout
from pipeline.datasets.paths import check_root
from pipeline.datasets.records import SPLITS, Pair
from pipeline.datasets.settings import DatasetSettings
from pipeline.errors import DataError

SECOND_CC_CLASSES: Final[tuple[tuple[str, tuple[int, int, int]], ...]] = (
    ("no change", (255, 255, 255)),
    ("low vegetation", (0, 128, 0)),
    ("tree", (0, 255, 0)),
    ("non-vegetated ground", (128, 128, 128)),
    ("water", (0, 0, 255)),
    ("building", (128, 0, 0)),
    ("playground", (255, 0, 0)),
)
"""Name and colour of each class; its position is the class index. "no change" marks every pixel whose land cover is the
same at both dates."""

_UNKNOWN: Final = 255


def decode_palette(rgb: NDArray[np.uint8], where: str | Path | None = None) -> NDArray[np.uint8]:
    """Turn a semantic map of colours into class indices of `SECOND_CC_CLASSES`.

    Args:
        rgb: uint8, (H, W, 3).
        where: The file, for the error.

    Returns:
        uint8, (H, W), values 0 to 6.

    Raises:
        DataError: A colour is not in the palette; the message names it and its first place. A map that was resized
            with interpolation or saved as JPEG has such colours.
    """
    codes = _pack(rgb)
    palette = _pack(np.array([colour for _, colour in SECOND_CC_CLASSES], dtype=np.uint8))
    order = np.argsort(palette)
    nearest = order[np.searchsorted(palette[order], codes).clip(max=len(order) - 1)]
    indices = np.where(palette[nearest] == codes, nearest, _UNKNOWN).astype(np.uint8)
    if (indices == _UNKNOWN).any():
        row, column = (int(value) for value in np.argwhere(indices == _UNKNOWN)[0])
        colour = tuple(int(value) for value in rgb[row, column])
        raise DataError(
            f"the semantic map has the colour {colour} at row {row}, column {column}, which is no class of SECOND-CC",
            where=where,
            fix="use the data set's own PNG maps; maps that are resized or saved as JPEG have blended colours",
        )
    return indices


def resize_nearest(indices: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a map of class indices to `size` (height, width), taking the nearest pixel: classes never blend."""
    rows, columns = (
        ((2 * np.arange(new) + 1) * old) // (2 * new) for old, new in zip(indices.shape, size, strict=True)
    )
    return indices[np.ix_(rows, columns)]


def _pack(rgb: NDArray[np.uint8]) -> NDArray[np.uint32]:
    packed: NDArray[np.uint32] = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    return packed


CAPTION_FILES: Final = ("SECOND-CC-AUG.json",)

NO_CHANGE: Final = (
    "the scene is the same as before",
    "there is no difference",
    "the two scenes seem identical",
    "no change is occurred",
    "almost nothing is changed",
)
"""The sentences of unchanged pairs by which the data set's authors split their scores."""

_MAPS: Final[tuple[tuple[MaskField, str], ...]] = (("semantic_before", "A"), ("semantic_after", "B"))


def list_pairs(settings: DatasetSettings, audit: Audit) -> Listing:
    """List the pairs with their semantic maps; see `ListPairs`."""
    root = Path(settings.root)
    check_root(root)
    captions = find_captions(settings, CAPTION_FILES)
    entries = read_captions(captions)
    layout = split_layout(root, "{split}/rgb/A", "{split}/rgb/B", audit, settings.links)
    listing = join(entries, layout, audit, captions)
    for field_name, date in _MAPS:
        maps = {split: list_images(root, f"{split}/sem/{date}", audit, settings.links) for split in SPLITS}
        attach(listing, field_name, maps, audit)
    return listing


def read_masks(root: Path, pair: Pair, max_megapixels: float) -> dict[str, NDArray[np.uint8]]:
    """Read the semantic maps, whose class 0 is "no change"; see `ReadMasks`."""
    paths = {name: getattr(pair, name) for name, _ in _MAPS}
    return {
        name: read_semantic_map(root / path, max_megapixels=max_megapixels)
        for name, path in paths.items()
        if path is not None
    }


def read_semantic_map(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.uint8]:
    """Read a semantic map.

    Returns:
        uint8, (H, W): indices of `SECOND_CC_CLASSES`.

    Raises:
        DataError: It cannot be read, or has a colour that is no class.
    """
    return decode_palette(read_rgb(path, convert=True, max_megapixels=max_megapixels), path)


ADAPTER = DatasetAdapter(
    profile=Profile(
        name="second-cc",
        title="SECOND-CC",
        layout="as published: `{train,val,test}/{rgb,sem}/{A,B}`, `SECOND-CC-AUG.json`",
        recipe="published",
        # Counts and length of the data set's own paper: words seen more than ten times, captions of up to 50 tokens.
        settings={"prepare": {"vocabulary": {"min_count": 11, "max_length": 50}}},
    ),
    list_pairs=list_pairs,
    read_masks=read_masks,
    caption_files=CAPTION_FILES,
    no_change=NO_CHANGE,
)
