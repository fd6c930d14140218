from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cache import Cache
from pipeline.captioners.region_tokens import keep_best
from pipeline.datasets.records import read_prepared
from pipeline.execution.settings import EngineSettings
from pipeline.files import read_json
from pipeline.language.vocabulary import END, Vocabulary
from pipeline.training.evidence import open_evidence
from pipeline.training.evidence_reading import read_evidence
from pipeline.training.explanations import SCHEMA
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.regions.cache import SCHEMA as REGIONS
from stages import caption, train
from stages.caption import CaptionSettings
from tests.training import evidence_world, world

LAYERS, GRID = 1, world.SHAPE[1:]
CAPTIONED = CaptionSettings(max_length=8, split="train", batch=3)


@pytest.fixture
def where(project: Path, prepared: Path):
    return evidence_world.write_all(project, prepared)


@pytest.fixture
def explained(prepared: Path, scenes: Path, engine: EngineSettings, where):
    """Train with a fusion for an epoch, caption and explain; return the folder of captions."""

    def run(fusion: str, *, explain: bool = True, **evidence: Any) -> Path:
        settings = world.train_settings(epochs=1, captioner=evidence_world.captioner(fusion, **evidence))
        models = train.run(settings, prepared, scenes, Path("models"), engine=engine, **where.by_stage())
        options = where.by_stage()
        return caption.run(
            CAPTIONED, prepared, scenes, models, Path("captions"), engine=engine, explain=explain, **options
        )

    return run


def rows(cache: Cache, pair: int) -> dict[str, np.ndarray]:
    """What the file holds of a pair, shares as (words, regions, layers)."""
    found = {field.name: cache.rows(field.name, np.array([pair]))[0] for field in SCHEMA.fields}
    found["change"] = found["change"][0]
    for name in ("motion", "semantics"):
        count, layers = len(found[f"{name}_row"]), found["cells"].shape[1]
        found[f"{name}_share"] = found[f"{name}_share"].reshape(len(found["word"]), count, layers)
    return found


@pytest.mark.parametrize("fusion", ["none", "paper", "release"])
def test_every_look_is_accounted_for(explained, prepared, fusion):
    folder = explained(fusion)
    data = read_prepared(prepared)
    vocabulary = Vocabulary.load(prepared / "vocabulary.json")
    captions = {row["image_id"]: row["caption"] for row in read_json(folder / "seed-1.json")}
    with Cache.open(folder / "seed-1.explanation.h5", SCHEMA) as cache:
        assert cache.ids == tuple(pair.id for pair in data.split("train"))
        for number, name in enumerate(cache.ids):
            found = rows(cache, number)
            assert vocabulary.decode(found["word"].tolist()) == captions[name]
            assert found["word"][-1] == END or len(found["word"]) == CAPTIONED.max_length - 1
            assert found["cells"].shape[1:] == (LAYERS, *GRID) and found["change"].shape == GRID
            total = found["cells"].astype(float).sum((2, 3))
            if fusion == "release":
                total = total + sum(found[f"{part}_share"].astype(float).sum(1) for part in ("motion", "semantics"))
                total = total + found["nodes"].astype(float).sum(2)
            np.testing.assert_allclose(total, 1, atol=5e-3)
            for part in ("motion", "semantics"):
                if fusion == "paper" and len(found[f"{part}_row"]):
                    np.testing.assert_allclose(found[f"{part}_share"].astype(float).sum(1), 1, atol=5e-3)
            if fusion != "none":
                assert found["nodes"].shape[2] == 4


@pytest.mark.parametrize("fusion", ["paper", "release"])
@pytest.mark.parametrize("top_q", [None, 2])
def test_regions_are_those_of_the_caches(explained, prepared, where, fusion, top_q):
    folder = explained(fusion, top_q=top_q)
    with (
        Cache.open(folder / "seed-1.explanation.h5", SCHEMA) as cache,
        Cache.open(where.regions, REGIONS) as regions,
        Cache.open(where.semantics, SEMANTICS) as semantics,
    ):
        data = read_prepared(prepared)
        caches = open_evidence(evidence_world.captioner(fusion, top_q=top_q), where, data, training=False)
        assert caches is not None
        evidence = read_evidence(caches, cache.ids, places=True)
        assert evidence.motion is not None and evidence.semantics is not None
        for kind, source, field, given in (
            ("motion", regions, "descriptors", evidence.motion),
            ("semantics", semantics, "embeddings", keep_best(evidence.semantics, top_q)),
        ):
            for number, name in enumerate(cache.ids):
                found, pair = rows(cache, number), data.index[name]
                starts = source.offsets(field_offsets(source, field))[2 * pair : 2 * pair + 2]
                at = starts[found[f"{kind}_date"]] + found[f"{kind}_row"]
                features = given.features[number][given.mask[number]].numpy()
                np.testing.assert_array_equal(source.memory_map(field)[at], features)


def field_offsets(cache: Cache, field: str) -> str:
    name = cache.schema.field(field).offsets
    assert name is not None
    return name


def test_explaining_changes_no_caption_and_is_left_out_unless_asked_for(explained):
    plain = (explained("release", explain=False) / "seed-1.json").read_bytes()
    assert not list(Path("captions").glob("*.h5"))
    folder = explained("release")
    assert (folder / "seed-1.json").read_bytes() == plain
    first = (folder / "seed-1.explanation.h5").read_bytes()
    assert (explained("release") / "seed-1.explanation.h5").read_bytes() == first
