"""LEVIR-CC: 10,077 pairs of 256×256 at 0.5 m per pixel, five captions each (Liu et al., TGRS 2022).

Layout: `images/{train,val,test}/{A,B}/<split>_NNNNNN.png` and `LevirCCcaptions.json`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.datasets.adapters import find_captions, no_masks
from pipeline.datasets.audit import Audit
from pipeline.datasets.caption_files import read_captions
from pipeline.datasets.listing import Listing, join, split_layout, supposed_layout
from pipeline.datasets.paths import check_root
from pipeline.datasets.settings import DatasetSettings

CAPTIONS = "LevirCCcaptions.json"

read_masks = no_masks


def list_pairs(settings: DatasetSettings, audit: Audit, names: Iterable[str] = (CAPTIONS,)) -> Listing:
    """List the pairs of a data set in LEVIR-CC's layout; `names` are the known names of its caption file."""
    root = Path(settings.root)
    check_root(root)
    captions = find_captions(settings, names)
    entries = read_captions(captions)
    before, after = "images/{split}/A", "images/{split}/B"
    if settings.images == "none":
        layout = supposed_layout(entries, f"{before}/{{stem}}.png", f"{after}/{{stem}}.png")
    else:
        layout = split_layout(root, before, after, audit)
    return join(entries, layout, audit, captions)
