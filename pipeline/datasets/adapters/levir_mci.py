"""LEVIR-MCI: LEVIR-CC with change masks (Liu et al., TGRS 2024).

Beside `A` and `B` lie `label/`, an index map, and `label_rgb/`, its colours. The colours are not read: that of roads is
reported both as blue and as yellow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.adapters import levir_cc
from pipeline.datasets.adapters.base import DatasetAdapter, Profile
from pipeline.datasets.audit import Audit
from pipeline.datasets.images import MAX_MEGAPIXELS, read_index_map
from pipeline.datasets.listing import Listing, attach, list_images
from pipeline.datasets.records import SPLITS, Pair
from pipeline.datasets.settings import DatasetSettings
from pipeline.errors import DataError

CLASSES: Final = ("no change", "road", "building")

_ENCODINGS: Final = ((0, 1, 2), (0, 128, 255))
"""The classes in order, as indices or spread over the range of greys so that people can see them."""


def list_pairs(settings: DatasetSettings, audit: Audit) -> Listing:
    """List the pairs with their masks; see `ListPairs`."""
    listing = levir_cc.list_pairs(settings, audit)
    root = Path(settings.root)
    attach(
        listing,
        "change_mask",
        {split: list_images(root, f"images/{split}/label", audit, settings.links) for split in SPLITS},
        audit,
    )
    return listing


def read_masks(root: Path, pair: Pair, max_megapixels: float) -> dict[str, NDArray[np.uint8]]:
    """Read the change mask; see `ReadMasks`."""
    if pair.change_mask is None:
        return {}
    return {"change_mask": read_mask(root / pair.change_mask, max_megapixels=max_megapixels)}


def read_mask(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.uint8]:
    """Read a change mask.

    Returns:
        uint8, (H, W): indices of `CLASSES`.

    Raises:
        DataError: It cannot be read, or has a value that is no class.
    """
    stored = read_index_map(path, max_megapixels=max_megapixels)
    values = np.unique(stored)
    for encoding in _ENCODINGS:
        if np.isin(values, encoding).all():
            return np.searchsorted(encoding, stored).astype(np.uint8)
    unknown = sorted({int(value) for value in values} - {0, 1, 2, 128, 255}) or [int(value) for value in values]
    raise DataError(
        f"the change mask has the values {unknown[:5]}; its classes are 0, 1, 2 or 0, 128, 255",
        where=path,
        fix="use the data set's own `label` folder, not `label_rgb`",
    )


ADAPTER = DatasetAdapter(
    profile=Profile(
        name="levir-mci",
        title="LEVIR-MCI",
        layout="as published: LEVIR-CC's files, and `images/{train,val,test}/label`",
        recipe="published",
        settings={"models": {"backbone": levir_cc.NORMALISATION}},
    ),
    list_pairs=list_pairs,
    read_masks=read_masks,
    caption_files=levir_cc.CAPTION_FILES,
    no_change=levir_cc.NO_CHANGE,
)
