"""WHU-CDC: 7,434 pairs, five captions each, in LEVIR-CC's layout with a caption file of its own."""

from __future__ import annotations

from typing import Final

from pipeline.datasets.adapters import levir_cc
from pipeline.datasets.adapters.base import DatasetAdapter, Profile
from pipeline.datasets.audit import Audit
from pipeline.datasets.listing import Listing
from pipeline.datasets.settings import DatasetSettings

CAPTION_FILES: Final = ("whuCCcaptions.json", *levir_cc.CAPTION_FILES)


def list_pairs(settings: DatasetSettings, audit: Audit) -> Listing:
    """List the pairs; see `ListPairs`."""
    return levir_cc.list_pairs(settings, audit, CAPTION_FILES)


ADAPTER = DatasetAdapter(
    profile=Profile(
        name="whu-cdc",
        title="WHU-CDC",
        layout="as published: `images/{train,val,test}/{A,B}`, `whuCCcaptions.json`",
        recipe="published",
        settings={"models": {"backbone": {"mean": [123.8806, 118.6361, 108.5552], "std": [49.5580, 47.7908, 50.2587]}}},
    ),
    list_pairs=list_pairs,
    caption_files=CAPTION_FILES,
    without_images=True,
)
