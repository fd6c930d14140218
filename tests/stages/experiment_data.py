"""A tiny data set with every cache and a params.yaml, on which rows of experiments run in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.datasets.records import read_prepared, write_prepared
from pipeline.experiments.rows import Experiment
from stages.experiment import Sources
from tests.training import evidence_world, world

PARAMS = Path("params.yaml")
UNCHANGED = ("p1",)
EVIDENCE = "train.captioner.evidence"
PLAIN = ("train.captioner.fusion=none",)
MOTION = (f"{EVIDENCE}.semantics=false", f"{EVIDENCE}.graph=false")
ROWS = [
    {"label": "baseline", "set": PLAIN},
    {"label": "+ MCL", "set": MOTION},
    {"label": "+ CGR", "set": ()},
]
SOURCES = {
    "prepared": "prepared",
    "scenes": "scenes.h5",
    "regions": "regions.h5",
    "matches": "matches.h5",
    "semantics": "semantics.h5",
    "graph": "graph",
}
"""Where what the stages wrote lies, from the project's folder."""


def make(project: Path) -> Sources:
    """Write everything that `params` needs into the project's folder."""
    prepared = world.write_pairs(project / "prepared")
    found = read_prepared(prepared)
    pairs = [pair.model_copy(update={"changed": pair.id not in UNCHANGED}) for pair in found.pairs]
    vocabulary = (prepared / "vocabulary.json").read_bytes()
    write_prepared(prepared, found.card.name, found.card.root, pairs)
    (prepared / "vocabulary.json").write_bytes(vocabulary)
    world.write_scenes(project / "scenes.h5", prepared)
    evidence_world.write_all(project, prepared)
    PARAMS.write_text(yaml.safe_dump(params()))
    return Sources(**{name: Path(path) for name, path in SOURCES.items()})


def params() -> dict[str, Any]:
    hashed = {"encoder": "hashed"}
    train = world.train_settings(epochs=2, seeds=(1, 2), captioner=evidence_world.captioner())
    return {
        "train": train.model_dump(mode="json"),
        "caption": {"split": "train", "max_length": 8},
        "evaluate": {"meteor": "never", "ids": False, "examples": 0},
        "matches": {"method": "nearest"},
        "graph": {
            "build": {"min_count": 1, "merge": {"text": hashed}, "features": hashed},
            "encoder": evidence_world.ENCODER_SETTINGS.model_dump(mode="json"),
            "pretraining": {"epochs": 2},
        },
        "engine": {"device": "cpu"},
    }


def experiment(*rows: dict[str, Any], **changes: Any) -> Experiment:
    return Experiment.model_validate({"name": "tiny", "rows": rows or ROWS} | changes)
