"""The synthetic world: its pairs are generated, not read; see `pipeline.datasets.world`."""

from __future__ import annotations

from pipeline.datasets.adapters.base import DatasetAdapter, Profile
from pipeline.datasets.adapters.levir_cc import NO_CHANGE

ADAPTER = DatasetAdapter(
    profile=Profile(
        name="synthetic",
        title="generated here",
        layout="none",
        recipe="synthetic",
        # The generator's code is what the synthetic data set is made from, so DVC watches it as the data root.
        settings={"prepare": {"root": "pipeline/datasets/world"}},
    ),
    list_pairs=None,
    no_change=NO_CHANGE,
)
