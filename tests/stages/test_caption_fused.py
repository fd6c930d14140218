from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import CacheError, CheckpointError, DataError
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from pipeline.training.checkpoints import load_model
from pipeline.training.inference import caption_batches
from pipeline.training.inputs import open_inputs
from pipeline.training.region_inputs import RegionSource, SemanticSource
from stages import caption, evaluate, train
from stages.settings import CaptionSettings, EvaluateSettings
from tests.worlds import cache_world, world

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS, OUTPUT = Path("models/baseline"), Path("captions/baseline")


@pytest.fixture
def where(project: Path, prepared: Path, scenes: Path) -> Paths:
    written = cache_world.write_all(project, prepared)
    return written.at(prepared=prepared, scenes=scenes, models=MODELS, captions=OUTPUT)


@pytest.fixture(params=["paper", "release"])
def models(request, engine: EngineSettings, where: Paths) -> Path:
    """Two seeds of a tiny model with a fusion, trained a little."""
    settings = world.train_settings(seeds=(2, 11), epochs=1, captioner=cache_world.captioner(request.param))
    return train.run(settings, where, engine=engine)


@pytest.fixture
def run(models: Path, engine: EngineSettings, where: Paths):
    def run(**changes: object) -> list[dict]:
        settings = CaptionSettings(**({"max_length": 8, "split": "train"} | changes))
        caption.run(settings, where, engine=engine)
        return json.loads((OUTPUT / "seed-2.json").read_text())

    return run


def test_each_pair_of_the_split_is_described_whatever_the_batches(run):
    captions = [[(row["image_id"], row["caption"]) for row in run(batch_size=batch_size)] for batch_size in (1, 3, 64)]
    assert [name for name, _ in captions[0]] == ["p0", "p1", "p2", "p3"]
    assert captions[0] == captions[1] == captions[2]
    # The trained graph is kept in the model: the pretrained weights are not needed any more.
    assert (OUTPUT / "seed-11.json").is_file()


def test_all_seeds_describe_what_is_read_once(run, monkeypatch):
    reads: list[str] = []
    for source in (RegionSource, SemanticSource):
        read = source.read
        monkeypatch.setattr(
            source,
            "read",
            lambda self, ids, read=read, **options: reads.append(self.name) or read(self, ids, **options),
        )
    run()
    assert sorted(reads) == ["regions", "semantics"]


def test_pretrained_weights_are_not_needed_to_describe(run, where):
    (where.graph / "encoder.safetensors").unlink()
    assert len(run()) == 4


def test_tensors_at_hand_are_described_like_cached_ones(run, models, where):
    expected = [row["caption"] for row in run()]
    trained = load_model(models / "seed-2", torch.device("cpu"))
    inputs = open_inputs(where, cache_world.captioner("paper"), training=False)
    stores = inputs.stores(inputs.data.split("train"), torch.device("cpu"))
    batch = {name: store.take(np.arange(4)) for name, store in stores.items()}
    settings = CaptionSettings(max_length=8)
    assert [best.text for best, *_ in next(caption_batches(trained, [batch], settings))] == expected
    with pytest.raises(DataError, match="reads unmatched regions, and none are given"):
        next(caption_batches(trained, [{"scenes": batch["scenes"]}], settings))


@pytest.mark.parametrize("models", ["release"], indirect=True)
@pytest.mark.parametrize(
    ("stage", "write"),
    [
        ("semantics", lambda where, unit: cache_world.write_semantics(where.semantics, where.prepared, missing=[unit])),
        (
            "regions",
            lambda where, unit: cache_world.write_matches(
                where.matches, where.regions, where.prepared, missing=[unit // 2]
            ),
        ),
    ],
)
def test_a_pair_that_any_stage_skipped_goes_through_to_the_score(models, run, where, engine, stage, write):
    whole = {row["image_id"]: row["caption"] for row in run()}
    write(where, 5)
    assert {row["image_id"]: row["caption"] for row in run()} == {id: whole[id] for id in ("p0", "p1", "p3")}
    assert json.loads((OUTPUT / "provenance.json").read_text())["left_out"] == {"p2": [stage]}
    where = where.at(metrics=Path("metrics.json"), plots=Path("plots"))
    evaluate.run(EvaluateSettings(meteor="never", ids=False, examples=0), where, engine=engine)
    metrics = json.loads(where.metrics.read_text())
    assert metrics["pairs"]["all"] == 3 and metrics["about"][0]["left_out"] == ["p2"]


@pytest.mark.parametrize("stage", ["regions", "matches", "semantics"])
def test_caches_made_otherwise_than_the_trainings_are_refused(run, where, prepared, stage):
    def write(**options: object) -> None:
        if stage == "regions":
            cache_world.write_regions(where.regions, prepared, **options)
        elif stage == "semantics":
            cache_world.write_semantics(where.semantics, prepared, **options)
        if stage != "semantics":
            others = options if stage == "matches" else {}
            cache_world.write_matches(where.matches, where.regions, prepared, **others)

    write(weights="1" * 64)
    with pytest.raises(CacheError, match=f"the {stage} were made with other weights") as caught:
        run()
    assert caught.value.where == str(getattr(where, stage)) and f"sagecc {stage}" in caught.value.fix
    if stage != "matches":
        write(settings={"colour": "red"})
        with pytest.raises(CacheError, match=r"other settings \(colour\)"):
            run()
    assert not OUTPUT.exists()


def test_regions_of_other_masks_than_the_trainings_are_refused(run, where, prepared):
    masks = cache_world.write_masks(where.masks, prepared)
    cache_world.write_regions(where.regions, prepared, masks=masks)
    cache_world.write_matches(where.matches, where.regions, prepared)
    with pytest.raises(CacheError, match=r"another masks\.h5"):
        run()


def test_other_pairs_need_masks_made_like_the_trainings(prepared, scenes, where, engine):
    def write(**options: object) -> None:
        masks = cache_world.write_masks(where.masks, prepared, **options)
        cache_world.write_regions(where.regions, prepared, masks=masks)
        cache_world.write_matches(where.matches, where.regions, prepared)

    write()
    settings = world.train_settings(epochs=1, captioner=cache_world.captioner())
    train.run(settings, where, engine=engine)
    world.write_pairs(prepared, captions=(*world.CAPTIONS[:5], ("an unheard word",)), name="other")
    world.write_scenes(scenes, prepared)
    cache_world.write_semantics(where.semantics, prepared)
    write(settings={"points": 4})
    others = CaptionSettings(max_length=8, split="train", allow_other_dataset=True)
    with pytest.raises(CacheError, match=r"the masks were made with other settings \(points\)") as caught:
        caption.run(others, where, engine=engine)
    assert caught.value.where == str(where.masks) and "sagecc masks" in caught.value.fix


def test_another_graph_than_the_trainings_is_refused(run, where, prepared):
    cache_world.write_graph(where.graph, prepared, engine="llm")
    with pytest.raises(CacheError, match=r"not the one that seed-2 was trained with: graph\.h5, graph\.json") as caught:
        run()
    assert caught.value.where == str(where.graph) and "sagecc train" in caught.value.fix


def test_other_pairs_are_described_with_the_trainings_graph(run, where, prepared, scenes):
    world.write_pairs(prepared, captions=(*world.CAPTIONS[:5], ("an unheard word",)), name="other")
    world.write_scenes(scenes, prepared)
    cache_world.write_regions(where.regions, prepared)
    cache_world.write_matches(where.matches, where.regions, prepared)
    cache_world.write_semantics(where.semantics, prepared)
    assert len(run(allow_other_dataset=True)) == 4


def test_widths_of_another_training_are_refused(run, models):
    path = models / "seed-2" / "settings.json"
    card = json.loads(path.read_text())
    card["inputs"]["semantics"]["shape"] = [9]
    path.write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"reads semantics of shape \(9,\), and these have \(5,\)") as caught:
        run()
    assert caught.value.where == str(path)
