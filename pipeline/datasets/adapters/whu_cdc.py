"""WHU-CDC: 7,434 pairs, five captions each, in LEVIR-CC's layout with a caption file of its own."""

from __future__ import annotations

from pipeline.datasets.adapters import levir_cc, no_masks
from pipeline.datasets.audit import Audit
from pipeline.datasets.listing import Listing
from pipeline.datasets.settings import DatasetSettings

CAPTIONS = ("whuCCcaptions.json", levir_cc.CAPTIONS)

read_masks = no_masks


def list_pairs(settings: DatasetSettings, audit: Audit) -> Listing:
    """List the pairs; see `pipeline.datasets.adapters.Adapter`."""
    return levir_cc.list_pairs(settings, audit, CAPTIONS)
