from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.datasets.adapters import ADAPTERS
from pipeline.datasets.audit import Audit
from pipeline.datasets.listing import Listing
from pipeline.datasets.settings import DatasetSettings

List = Callable[..., tuple[Listing, Audit]]


@pytest.fixture
def listed() -> List:
    """Run an adapter: name, root and further settings in, listing and audit out."""

    def run(dataset: str, root: Path, **changes: object) -> tuple[Listing, Audit]:
        settings = DatasetSettings.model_validate({"dataset": dataset, "root": str(root), **changes})
        list_pairs, audit = ADAPTERS.resolve(dataset).list_pairs, Audit()
        assert list_pairs is not None
        return list_pairs(settings, audit), audit

    return run
