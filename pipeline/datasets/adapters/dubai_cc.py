"""Dubai-CC: 500 pairs of 50×50 Landsat images of 2000 and 2010, five captions each (Hoxha et al., TGRS 2022).

Layout: `500_2000/*.tif`, `500_2010/*.tif` and one caption file per split, each of which numbers its images from zero.
Captions keep capitals and full stops; change flags are not given.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from pipeline.datasets.adapters import no_masks
from pipeline.datasets.audit import Audit
from pipeline.datasets.caption_files import Entry, read_captions
from pipeline.datasets.listing import Listing, join, shared_layout, supposed_layout
from pipeline.datasets.paths import check_root
from pipeline.datasets.records import Split
from pipeline.datasets.settings import DatasetSettings
from pipeline.errors import DataError

CAPTIONS: Final[dict[Split, str]] = {
    "train": "Train_Dubai_CC.json",
    "val": "Validation_Dubai_CC.json",
    "test": "Test_Dubai_CC.json",
}

read_masks = no_masks


def list_pairs(settings: DatasetSettings, audit: Audit) -> Listing:
    """List the pairs; see `pipeline.datasets.adapters.Adapter`."""
    root = Path(settings.root)
    check_root(root)
    folder = root / (settings.captions or "")
    entries: list[Entry] = []
    for split, name in CAPTIONS.items():
        if not (folder / name).is_file():
            audit.note("caption-file-missing", name)
            continue
        for entry in read_captions(folder / name):
            # The file is the split; an entry's own word only confirms it.
            entries.append(replace(entry, split=split, folder_split=entry.split or entry.folder_split))
    if not entries:
        raise DataError(
            f"none of the caption files {', '.join(CAPTIONS.values())} is there",
            where=folder,
            fix="set prepare.root to the folder that holds them, or prepare.captions to their folder within root",
        )
    before, after = "500_2000", "500_2010"
    if settings.images == "none":
        layout = supposed_layout(entries, f"{before}/{{stem}}.tif", f"{after}/{{stem}}.tif")
    else:
        layout = shared_layout(root, before, after, audit)
    return join(entries, layout, audit, folder)
