"""SECOND-CC: 6,041 pairs with semantic maps of both dates, five captions each (Karaca et al., JSTARS 2025).

Layout: `{train,val,test}/{rgb,sem}/{A,B}/*.png` and `SECOND-CC-AUG.json`. The semantic maps are colours; see
`pipeline.datasets.palette`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.adapter import find_captions
from pipeline.datasets.audit import Audit
from pipeline.datasets.images import MAX_MEGAPIXELS, read_rgb
from pipeline.datasets.karpathy import read_captions
from pipeline.datasets.listing import Listing, MaskField, attach, join, list_images, split_layout
from pipeline.datasets.palette import decode_palette
from pipeline.datasets.paths import check_root
from pipeline.datasets.records import SPLITS, Pair
from pipeline.datasets.settings import DatasetSettings

CAPTIONS: Final = "SECOND-CC-AUG.json"

_MAPS: Final[tuple[tuple[MaskField, str], ...]] = (("semantic_before", "A"), ("semantic_after", "B"))


def list_pairs(settings: DatasetSettings, audit: Audit) -> Listing:
    """List the pairs with their semantic maps; see `pipeline.datasets.adapter.Adapter`."""
    root = Path(settings.root)
    check_root(root)
    captions = find_captions(settings, [CAPTIONS])
    entries = read_captions(captions)
    listing = join(entries, split_layout(root, "{split}/rgb/A", "{split}/rgb/B", audit), audit, captions)
    for field_name, date in _MAPS:
        attach(listing, field_name, {split: list_images(root, f"{split}/sem/{date}", audit) for split in SPLITS}, audit)
    return listing


def read_masks(root: Path, pair: Pair, max_megapixels: float) -> dict[str, NDArray[np.uint8]]:
    """Read the semantic maps, whose class 0 is "no change"; see `pipeline.datasets.adapter.Adapter`."""
    paths = {name: getattr(pair, name) for name, _ in _MAPS}
    return {
        name: read_semantic_map(root / path, max_megapixels=max_megapixels)
        for name, path in paths.items()
        if path is not None
    }


def read_semantic_map(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.uint8]:
    """Read a semantic map.

    Returns:
        uint8, (H, W): indices of `pipeline.datasets.palette.SECOND_CC_CLASSES`.

    Raises:
        DataError: It cannot be read, or has a colour that is no class.
    """
    return decode_palette(read_rgb(path, convert=True, max_megapixels=max_megapixels), path)
