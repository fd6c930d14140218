"""Tiny inputs for the tests of training: pairs, captions and features that differ from pair to pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.schema import Provenance
from pipeline.cache.writer import pack
from pipeline.captioners.settings import DecoderSettings, SageCCSettings, SceneEncoderSettings
from pipeline.config import settings_hash
from pipeline.datasets.records import Pair, read_prepared, write_prepared
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.files import sha256_file
from pipeline.training.settings import TrainSettings
from pipeline.vision.scenes.settings import BackboneSettings
from pipeline.vision.scenes.worker import SCHEMA

SHAPE = (8, 2, 2)
CAPTIONS = (
    ("two houses appear beside the road", "houses are built along the road"),
    ("the scene is the same as before",),
    ("trees are removed in the north", "some trees vanish", "the north has fewer trees"),
    ("a road crosses the field", "a new road is built"),
    ("a pool is built", "somebody built a pool"),
    ("the field turns green",),
)
SPLITS = ("train", "train", "train", "train", "val", "test")

TINY = SageCCSettings(
    scene=SceneEncoderSettings(width=16, blocks=1, heads=2, dropout=0.1, head_norm="group"),
    decoder=DecoderSettings(width=16, layers=1, heads=2, feedforward=2, dropout=0.1),
)


def train_settings(**changes: Any) -> TrainSettings:
    values = {"epochs": 3, "batch_size": 3, "learning_rate": 3e-3, "captioner": TINY}
    return TrainSettings(**(values | changes))


def write_pairs(
    folder: Path,
    *,
    captions: Sequence[Sequence[str]] = CAPTIONS,
    splits: Sequence[str] = SPLITS,
    name: str = "folder",
    root: str = "images",
    sha256: Mapping[str, dict[str, str]] | None = None,
) -> Path:
    pairs = [
        Pair(
            id=f"p{index}",
            split=split,
            before=f"A/p{index}.png",
            after=f"B/p{index}.png",
            captions=tuple(texts),
            sha256=(sha256 or {}).get(f"p{index}", {}),
        )
        for index, (texts, split) in enumerate(zip(captions, splits, strict=True))
    ]
    write_prepared(folder, name, root, pairs)
    vocabulary = build_vocabulary(
        [text for texts in captions for text in texts], VocabularySettings(min_count=1, max_length=12), name
    )
    vocabulary.save(folder / "vocabulary.json")
    return folder


class Features:
    """Random features of units, of which some may be skipped."""

    def __init__(self, units: int, shape: tuple[int, ...], seed: int, missing: Sequence[int]) -> None:
        random = np.random.default_rng(seed)
        self.values = random.normal(size=(units, *shape)).astype(np.float16)
        self._missing = set(missing)

    def __len__(self) -> int:
        return len(self.values)

    def lengths(self, unit: int) -> Mapping[str, int] | None:
        return None if unit in self._missing else {}

    def read(self, unit: int) -> Mapping[str, np.ndarray]:
        return {"features": self.values[unit]}


def write_scenes(
    path: Path,
    prepared: Path,
    *,
    shape: tuple[int, int, int] = SHAPE,
    backbone: BackboneSettings | None = None,
    weights: str = "0" * 64,
    seed: int = 0,
    missing: Sequence[int] = (),
    ids: Sequence[str] | None = None,
) -> Path:
    backbone = backbone or BackboneSettings()
    ids = ids or [pair.id for pair in read_prepared(prepared).pairs]
    schema = SCHEMA
    provenance = Provenance(
        stage=schema.stage,
        schema_version=schema.version,
        settings=backbone.model_dump(mode="json"),
        settings_hash=settings_hash(backbone),
        weights={"backbone": weights},
        upstream={"pairs.jsonl": sha256_file(prepared / "pairs.jsonl")},
    )
    return pack(path, schema, provenance, ids, Features(2 * len(ids), shape, seed, missing))
