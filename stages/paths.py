"""Where stages leave their results when nothing else is asked for; dvc.yaml names the same places."""

from __future__ import annotations

from pathlib import Path

ARTIFACTS = Path("artifacts")
PREPARED = ARTIFACTS / "prepared"
SCENES = ARTIFACTS / "caches" / "scenes.h5"
MASKS = ARTIFACTS / "caches" / "masks.h5"
REGIONS = ARTIFACTS / "caches" / "regions.h5"
MATCHES = ARTIFACTS / "caches" / "matches.h5"
SEMANTICS = ARTIFACTS / "caches" / "semantics.h5"
GRAPH = ARTIFACTS / "graph"
METRICS = ARTIFACTS / "metrics.json"
PLOTS = ARTIFACTS / "plots"
PRETRAINED = ARTIFACTS / "pretrained"
WORK = Path(".work")
"""Untracked shards and training states, from which interrupted stages go on."""
EXPERIMENTS = ARTIFACTS / "experiments"
ANSWERS = WORK / "llm"
"""Stored answers of language models; deleting them means asking, and paying, again."""


def models(name: str) -> Path:
    """Folder of the models trained under `name`, one subfolder per seed."""
    return ARTIFACTS / "models" / name


def curves(name: str) -> Path:
    """Folder of the training curves of the models `name`, one subfolder per seed."""
    return ARTIFACTS / "curves" / name


def captions(name: str) -> Path:
    """Folder of the captions that the models `name` wrote, one file per seed."""
    return ARTIFACTS / "captions" / name


def training(key: str) -> Path:
    """Folder of the states, models and times of the trainings with this content key, one subfolder per seed."""
    return WORK / "train" / key[:16]
