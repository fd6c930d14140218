from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.datasets.adapters import adapter_of
from pipeline.datasets.audit import Audit
from pipeline.datasets.listing import Listing
from pipeline.datasets.settings import DatasetName, DatasetSettings

List = Callable[..., tuple[Listing, Audit]]


@pytest.fixture
def listed() -> List:
    """Run an adapter: name, root and further settings in, listing and audit out."""

    def run(dataset: DatasetName, root: Path, **changes: object) -> tuple[Listing, Audit]:
        settings = DatasetSettings.model_validate({"dataset": dataset, "root": str(root), **changes})
        audit = Audit()
        return adapter_of(dataset).list_pairs(settings, audit), audit

    return run
