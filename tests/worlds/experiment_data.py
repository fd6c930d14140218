"""A tiny data set with every cache and a params.yaml, on which rows of experiments run in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.datasets.records import read_prepared, write_prepared
from pipeline.experiments.rows import Experiment
from pipeline.paths import Paths
from tests.worlds import cache_world, world

PARAMS = Path("params.yaml")
UNCHANGED = ("p1",)
INPUTS = "train.captioner.inputs"
PLAIN = ("train.captioner.fusion=none",)
MOTION = (f"{INPUTS}.semantics=false", f"{INPUTS}.graph=false")
ROWS = [
    {"label": "baseline", "set": PLAIN},
    {"label": "+ MCL", "set": MOTION},
    {"label": "+ CGR", "set": ()},
]


def make(project: Path) -> Paths:
    """Write everything that `params` needs into the project's folder, in which the test runs."""
    prepared = world.write_pairs(project / "prepared")
    data = read_prepared(prepared)
    pairs = [pair.model_copy(update={"changed": pair.id not in UNCHANGED}) for pair in data.pairs]
    vocabulary = (prepared / "vocabulary.json").read_bytes()
    write_prepared(prepared, data.card.name, data.card.root, pairs)
    (prepared / "vocabulary.json").write_bytes(vocabulary)
    world.write_scenes(project / "scenes.h5", prepared)
    cache_world.write_all(project, prepared)
    PARAMS.write_text(yaml.safe_dump(params()))
    return cache_world.paths(Path()).at(prepared=Path("prepared"), scenes=Path("scenes.h5"))


def params() -> dict[str, Any]:
    train = world.train_settings(epochs=2, seeds=(1, 2), captioner=cache_world.captioner()).model_dump(mode="json")
    return {
        "models": {
            "graph_encoder": train["captioner"]["inputs"].pop("graph_encoder"),
            "text_encoder": {"encoder": "hashed"},
        },
        "train": train,
        "caption": {"split": "train", "max_length": 8},
        "evaluate": {"meteor": "never", "ids": False, "examples": 0},
        "matches": {"method": "nearest"},
        "graph": {"build": {"min_count": 1}, "pretraining": {"epochs": 2}},
        "engine": {"device": "cpu"},
    }


def experiment(*rows: dict[str, Any], **changes: Any) -> Experiment:
    return Experiment.model_validate({"name": "tiny", "rows": rows or ROWS} | changes)
