"""LEVIR-CC: 10,077 pairs of 256×256 at 0.5 m per pixel, five captions each (Liu et al., TGRS 2022).

Layout: `images/{train,val,test}/{A,B}/<split>_NNNNNN.png` and `LevirCCcaptions.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.datasets.adapters.base import DatasetAdapter, Profile, find_captions
from pipeline.datasets.audit import Audit
from pipeline.datasets.caption_files import read_captions
from pipeline.datasets.listing import Listing, find_images, join
from pipeline.datasets.paths import check_root
from pipeline.datasets.settings import DatasetSettings

CAPTION_FILES: Final = ("LevirCCcaptions.json",)

NO_CHANGE: Final = (
    "there is no difference",
    "the two scenes seem identical",
    "the scene is the same as before",
    "no change has occurred",
    "almost nothing has changed",
)
"""All sentences of unchanged pairs."""

NORMALISATION: Final[dict[str, Any]] = {
    "mean": [100.6790, 99.5023, 84.9932],
    "std": [50.9820, 48.4838, 44.7057],
}
"""Of its images, in the authors' release."""


def list_pairs(settings: DatasetSettings, audit: Audit, caption_files: Sequence[str] = CAPTION_FILES) -> Listing:
    """List the pairs of a data set in LEVIR-CC's layout; see `ListPairs`."""
    check_root(Path(settings.root))
    captions = find_captions(settings, caption_files)
    entries = read_captions(captions)
    layout = find_images(entries, "images/{split}/A", "images/{split}/B", ".png", settings, audit)
    return join(entries, layout, audit, captions)


ADAPTER = DatasetAdapter(
    profile=Profile(
        name="levir-cc",
        title="LEVIR-CC",
        layout="as published: `images/{train,val,test}/{A,B}`, `LevirCCcaptions.json`",
        recipe="published",
        settings={"models": {"backbone": NORMALISATION}},
    ),
    variants=(
        # Real captions and the object tags of the real images, no pixels: it runs prepare, semantics, train, caption
        # and evaluate; scenes, masks, regions and matches refuse it (docs/architecture.md).
        Profile(
            name="levir-cc-tags",
            title="LEVIR-CC without its images",
            layout="`LevirCCcaptions.json`, `object_tags_<split>.json`: object tags per date take the place of pixels",
            recipe="tags",
            settings={
                "prepare": {"images": "none"},
                "semantics": {"source": {"kind": "tags", "file": "object_tags_{split}.json"}},
            },
        ),
    ),
    list_pairs=list_pairs,
    caption_files=CAPTION_FILES,
    no_change=NO_CHANGE,
    without_images=True,
)
