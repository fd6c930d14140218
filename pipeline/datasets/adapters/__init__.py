"""Registry of the data sets: one module each, from its own layout to pair records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.registry import Registry

# Settings read the names from here, so that this module loads neither numpy nor the adapters.
if TYPE_CHECKING:
    from pipeline.datasets.adapters.base import DatasetAdapter

ADAPTERS: Final[Registry[DatasetAdapter]] = Registry("data set", where="prepare.dataset")

ADAPTERS.register("synthetic", "pipeline.datasets.adapters.synthetic:ADAPTER", "generated here")
ADAPTERS.register("levir-cc", "pipeline.datasets.adapters.levir_cc:ADAPTER")
ADAPTERS.register("levir-mci", "pipeline.datasets.adapters.levir_mci:ADAPTER")
ADAPTERS.register("dubai-cc", "pipeline.datasets.adapters.dubai_cc:ADAPTER")
ADAPTERS.register("whu-cdc", "pipeline.datasets.adapters.whu_cdc:ADAPTER")
ADAPTERS.register("second-cc", "pipeline.datasets.adapters.second_cc:ADAPTER")
ADAPTERS.register("folder", "pipeline.datasets.adapters.folder:ADAPTER", "own pairs")
