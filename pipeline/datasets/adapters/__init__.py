"""Registry of the data sets: one module each, from its own layout to pair records."""

from __future__ import annotations

from typing import Any, Final

from pipeline.registry import Registry

ADAPTERS: Final[Registry[Any]] = Registry("data set", where="prepare.dataset")
"""Adapters by name, each a `pipeline.datasets.adapters.base.DatasetAdapter`, whose type is not imported here: settings
validate names by this module, and adapters import settings."""

ADAPTERS.register("synthetic", "pipeline.datasets.adapters.synthetic:ADAPTER", "generated here")
ADAPTERS.register("levir-cc", "pipeline.datasets.adapters.levir_cc:ADAPTER")
ADAPTERS.register("levir-mci", "pipeline.datasets.adapters.levir_mci:ADAPTER")
ADAPTERS.register("dubai-cc", "pipeline.datasets.adapters.dubai_cc:ADAPTER")
ADAPTERS.register("whu-cdc", "pipeline.datasets.adapters.whu_cdc:ADAPTER")
ADAPTERS.register("second-cc", "pipeline.datasets.adapters.second_cc:ADAPTER")
ADAPTERS.register("folder", "pipeline.datasets.adapters.folder:ADAPTER", "own pairs")
