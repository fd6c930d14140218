"""Dubai-CC: 500 pairs of 50×50 Landsat images of 2000 and 2010, five captions each (Hoxha et al., TGRS 2022).

Layout: `500_2000/*.tif`, `500_2010/*.tif` and one caption file per split, each of which numbers its images from zero.
Captions keep capitals and full stops; change flags are not given.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from pipeline.datasets.adapters.base import DatasetAdapter, Profile, folder_with
from pipeline.datasets.audit import Audit
from pipeline.datasets.caption_files import CaptionEntry, read_captions
from pipeline.datasets.links import check_link
from pipeline.datasets.listing import Listing, find_images, join
from pipeline.datasets.nearest import FolderNames
from pipeline.datasets.paths import check_root
from pipeline.datasets.records import Split
from pipeline.datasets.settings import DatasetSettings
from pipeline.errors import DataError

CAPTION_FILES: Final[dict[Split, str]] = {
    "train": "Train_Dubai_CC.json",
    "val": "Validation_Dubai_CC.json",
    "test": "Test_Dubai_CC.json",
}

NO_CHANGE: Final = (
    "everything remains the same",
    "nothing has changed",
    "there is no difference",
    "there is no change to mention",
    "no change was made",
    "the area appears the same",
    "no change occurred",
    "no difference in this area",
    "all remained the same",
    "all is the same",
)
"""The ten commonest sentences of unchanged pairs; others differ in endings such as "in this area"."""


def list_pairs(settings: DatasetSettings, audit: Audit) -> Listing:
    """List the pairs; see `ListPairs`."""
    root = Path(settings.root)
    check_root(root)
    folder = root / (settings.captions or "")
    entries: list[CaptionEntry] = []
    for split, name in CAPTION_FILES.items():
        if (folder / name).is_symlink():
            check_link(folder / name, root, settings.links)
        if not (folder / name).is_file():
            audit.note("caption-file-missing", name)
            continue
        for entry in read_captions(folder / name):
            # The file is the split; an entry's own word only confirms it.
            entries.append(replace(entry, split=split, folder_split=entry.split or entry.folder_split))
    if not entries:
        raise DataError(
            f"none of the caption files {', '.join(CAPTION_FILES.values())} is there",
            where=folder,
            fix=_captions_advice(folder),
        )
    layout = find_images(entries, "500_2000", "500_2010", ".tif", settings, audit)
    return join(entries, layout, audit, folder)


def _captions_advice(folder: Path) -> str:
    for name in CAPTION_FILES.values():
        if folder.is_dir() and (holder := folder_with(folder, name)):
            return f"set prepare.root to {holder}, which has {name}"
        if near := FolderNames(folder).guess(name):
            return f"rename it to {name}: {near}"
    return "set prepare.root to the folder that holds them, or prepare.captions to their folder within root"


ADAPTER = DatasetAdapter(
    profile=Profile(
        name="dubai-cc",
        title="Dubai-CC",
        layout="as published: `500_2000`, `500_2010`, three JSON files",
        recipe="published",
        settings={
            "prepare": {"vocabulary": {"min_count": 1, "max_length": 27}},
            "models": {"backbone": {"mean": [156.0681, 115.0891, 92.0745], "std": [76.5139, 52.0616, 44.4209]}},
            # 1,500 training captions bear no k of 50: 10 leaves 35 entities and 28 relations.
            "graph": {"build": {"min_count": 10}},
        },
    ),
    list_pairs=list_pairs,
    caption_files=tuple(CAPTION_FILES.values()),
    no_change=NO_CHANGE,
    without_images=True,
)
