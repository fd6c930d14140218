"""What an adapter is: one module per data set, from its own layout to pair records."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.audit import Audit
from pipeline.datasets.listing import Listing
from pipeline.datasets.records import Pair
from pipeline.datasets.settings import DatasetName, DatasetSettings
from pipeline.errors import DataError

_MODULES: Final[dict[DatasetName, str]] = {
    "levir-cc": "levir_cc",
    "levir-mci": "levir_mci",
    "dubai-cc": "dubai_cc",
    "whu-cdc": "whu_cdc",
    "second-cc": "second_cc",
    "folder": "folder",
}


class Adapter(Protocol):
    """The two functions of an adapter's module."""

    def list_pairs(self, settings: DatasetSettings, audit: Audit) -> Listing:
        """List the pairs whose images are there, without reading any image.

        Raises:
            DataError: The layout is not that of the data set, or a caption file cannot be trusted.
        """

    def read_masks(self, root: Path, pair: Pair, max_megapixels: float) -> dict[str, NDArray[np.uint8]]:
        """Read a pair's masks: field of `Pair` → class indices (H, W), in which 0 means that nothing changes.

        Raises:
            DataError: A mask cannot be read or has values without a meaning.
        """


def adapter_of(name: DatasetName) -> Adapter:
    """Return the adapter of a data set that lies on disk (every one but `synthetic`)."""
    return cast(Adapter, import_module(f"pipeline.datasets.adapters.{_MODULES[name]}"))


def find_captions(settings: DatasetSettings, names: Iterable[str]) -> Path:
    """Find a data set's caption file: the one that the settings name, else the first of its known names.

    Raises:
        DataError: None of them is there; the message names the JSON files that are.
    """
    root = Path(settings.root)
    known = [settings.captions] if settings.captions else list(names)
    for name in known:
        if (root / name).is_file():
            return root / name
    others = sorted(path.name for path in root.glob("*.json"))
    raise DataError(
        f"the caption file {' or '.join(known)} is not there",
        where=root,
        fix=f"set prepare.captions to one of: {', '.join(others)}"
        if others
        else "set prepare.root or prepare.captions",
    )


def no_masks(root: Path, pair: Pair, max_megapixels: float) -> dict[str, NDArray[np.uint8]]:
    """Be `read_masks` for a data set without masks."""
    return {}
