"""Prepared captions and settings for small caption graphs, and the stage that builds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import parse_section
from pipeline.datasets.records import Pair, write_prepared
from pipeline.execution.settings import EngineSettings
from stages import graph as stage
from stages.settings import GraphSettings
from tests.places import at

CAPTIONS = (
    "a house is built on the grass",
    "several houses are constructed along the road",
    "a road appears on the bareland",
    "the trees are replaced by a house",
    "there is no difference",
)
HASHED = {"encoder": "hashed"}


def prepare(folder: Path, splits: dict[str, tuple[str, ...]]) -> Path:
    pairs = [
        Pair(id=f"{split}-{number}", split=split, before="a.png", after="b.png", captions=captions)
        for split, captions in splits.items()
        for number in range(3)
    ]
    write_prepared(folder, "folder", "images", pairs)
    return folder


def make(**build: Any) -> GraphSettings:
    values = {"min_count": 3, "merge": {"text": HASHED}, "features": HASHED, **build}
    return parse_section({"build": values, "pretraining": {"epochs": 2}}, "graph", GraphSettings)


def run(settings: GraphSettings, prepared: Path, output: Path) -> Path:
    return stage.run(settings, at(prepared=prepared, graph=output), engine=EngineSettings())
