from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import parse_section
from pipeline.datasets.records import read_prepared, write_prepared
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.errors import CacheError, CheckpointError, SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from pipeline.training import run as training
from pipeline.training.checkpoints import load_model
from pipeline.training.region_inputs import ENCODER
from pipeline.vision.regions.descriptor import build_head
from pipeline.vision.regions.settings import HeadSettings
from stages import caption, graph, matches, regions, semantics, train
from stages.settings import CaptionSettings, GraphSettings, MatchesSettings, SemanticsSettings
from tests.stages.training_runs import Impatient, content, forget, kill_until_done, no_training
from tests.worlds import cache_world, region_data, world
from tests.worlds.cache_world import captioner
from tests.worlds.semantic_data import write_grounding

pytestmark = pytest.mark.usefixtures("one_thread")

OUTPUT = Path("models/baseline")
GRAPH_KEY = "captioner.fusion.graph.encoder."


@pytest.fixture
def where(project: Path, prepared: Path, scenes: Path) -> Paths:
    written = cache_world.write_all(project, prepared)
    return written.at(prepared=prepared, scenes=scenes, models=OUTPUT, curves=Path("curves"))


@pytest.fixture
def run(engine: EngineSettings, where: Paths):
    """Run the stage on the tiny data set with a fusion; `inputs` changes what the captioner reads."""

    def run(models: Path = OUTPUT, fusion: str = "paper", **changes: object) -> Path:
        inputs = changes.pop("inputs", {})
        settings = world.train_settings(captioner=captioner(fusion, **inputs), **changes)
        return train.run(settings, where.at(models=models), engine=engine)

    return run


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_a_fused_model_says_what_it_was_trained_on(run, where, fusion, capfd):
    folder = run(fusion=fusion) / "seed-1"
    card = json.loads((folder / "settings.json").read_text())
    inputs = card["inputs"]
    shapes = {name: source["shape"] for name, source in inputs.items()}
    assert shapes == {"scenes": list(world.SHAPE), "regions": [6], "semantics": [5], "graph": [4, 3]}
    assert set(inputs["regions"]["caches"]) == {"regions", "matches"} and set(inputs["semantics"]["caches"]) == {
        "semantics"
    }
    assert set(inputs["graph"]["files"]) == {"graph.json", "graph.h5", ENCODER}
    assert str(Path.cwd()) not in (folder / "settings.json").read_text()
    trained = load_model(folder, torch.device("cpu"))
    assert {name: list(shape) for name, shape in trained.model.captioner.shapes.items()} == shapes
    losses = [record["loss"] for record in json.loads((folder / "history.json").read_text())["epochs"]]
    assert losses[-1] < losses[0]
    said = capfd.readouterr().err
    assert "regions: " in said and "semantics: " in said and "graph: 4 nodes" in said


def test_same_settings_same_bytes_wherever_the_data_lie(run):
    first = content(run(Path("first")))
    for place in ("device", "host", "file"):
        forget()
        assert content(run(Path(place), data=place)) == first


def test_the_graph_encoder_starts_pretrained_where_that_is_asked_for(run, where):
    pretrained = load_file(where.graph / ENCODER)

    def start(name: str, **inputs: object) -> dict[str, torch.Tensor]:
        # A rate so small that nothing moves.
        folder = run(Path(name), epochs=1, learning_rate=1e-30, inputs=inputs) / "seed-1"
        return load_file(folder / "model.safetensors")

    one, two, frozen = start("one"), start("two", pretrained_graph=False), start("three", frozen_graph=True)
    for name, tensor in pretrained.items():
        assert torch.allclose(one[GRAPH_KEY + name], tensor, rtol=0, atol=1e-20)
        assert torch.equal(frozen[GRAPH_KEY + name], tensor)
    assert any(not torch.allclose(two[GRAPH_KEY + name], tensor) for name, tensor in pretrained.items())


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_regions_reach_the_weights(run, where, prepared, fusion):
    # Other regions under the same key would be taken for trained; so the work folder is emptied.
    before = content(run(Path("before"), fusion=fusion, epochs=1))["seed-1/model.safetensors"]
    cache_world.write_regions(where.regions, prepared, spoil=lambda unit, arrays: arrays["descriptors"].fill(1.0))
    cache_world.write_matches(where.matches, where.regions, prepared)
    assert content(run(Path("after"), fusion=fusion, epochs=1))["seed-1/model.safetensors"] != before


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_a_descriptor_head_is_trained_with_the_captioner(run, where, prepared, fusion):
    cache_world.write_regions(where.regions, prepared, spoil=cache_world.with_grids)
    cache_world.write_matches(where.matches, where.regions, prepared)

    def head(name: str, **changes: object) -> dict[str, torch.Tensor]:
        folder = run(Path(name), fusion=fusion, inputs={"descriptor_width": 8}, **changes) / "seed-1"
        assert json.loads((folder / "settings.json").read_text())["inputs"]["regions"]["shape"] == [2 * 49]
        assert load_model(folder, torch.device("cpu")).model.captioner.descriptors.head.width == 8
        weights = load_file(folder / "model.safetensors")
        return {key: weights[key] for key in weights if key.startswith("captioner.descriptors.")}

    start, trained = head("start", epochs=1, learning_rate=1e-30), head("trained")
    assert len(start) == 4
    assert all(not torch.allclose(start[key], trained[key], atol=1e-6) for key in start)
    # The stage regions computes with it what the captioner makes of the same grids.
    file = str(Path("trained/seed-1/model.safetensors"))
    built = build_head(cache_world.GRID_CHANNELS, HeadSettings(kind="conv", width=8, weights=file)).state_dict()
    assert {f"captioner.descriptors.head.{key}" for key in built} == set(trained)
    assert all(torch.equal(built[key], trained[f"captioner.descriptors.head.{key}"]) for key in built)


@pytest.mark.parametrize("change", ["regions", "matches", "semantics", "graph", "encoder", "max_masks", "threshold"])
def test_a_model_of_other_inputs_is_not_taken_for_done(run, where, prepared, change):
    run(epochs=1)
    key = json.loads((OUTPUT / "seed-1/settings.json").read_text())["key"]
    inputs: dict[str, object] = {}
    if change == "regions":
        cache_world.write_regions(where.regions, prepared, weights="1" * 64)
        cache_world.write_matches(where.matches, where.regions, prepared)
    elif change == "matches":
        cache_world.write_matches(where.matches, where.regions, prepared, weights="1" * 64)
    elif change == "semantics":
        cache_world.write_semantics(where.semantics, prepared, weights="1" * 64)
    elif change == "graph":
        cache_world.write_graph(where.graph, prepared, engine="llm")
    elif change == "encoder":
        cache_world.write_encoder(where.graph, seed=5)
    else:
        inputs = {"max_masks": 2} if change == "max_masks" else {"match_threshold": 0.5}
    run(epochs=1, inputs=inputs)
    assert json.loads((OUTPUT / "seed-1/settings.json").read_text())["key"] != key


def test_finished_seeds_are_not_trained_again(run, monkeypatch):
    before = content(run())
    monkeypatch.setattr(train, "train_seeds", no_training)
    assert content(run()) == before


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_ctrl_c_saves_and_the_same_call_goes_on(run, monkeypatch, fusion):
    from pipeline.training.distributed import Interrupted

    whole = content(run(Path("whole"), fusion=fusion))
    forget()
    with monkeypatch.context() as patch:
        patch.setattr(training, "Loop", Impatient)
        with pytest.raises(Interrupted, match=r"epoch 2 of 3"):
            run(fusion=fusion)
    assert content(run(fusion=fusion)) == whole


def test_a_run_that_is_killed_ends_with_the_same_bytes(run, where):
    changes = {"epochs": 60, "batch_size": 2, "validate_every": 30}
    whole = content(run(Path("whole"), **changes))
    forget()
    settings = world.train_settings(captioner=captioner(), **changes)
    assert kill_until_done(settings, where, whole, most=8, longest=0.8) >= 2


def test_a_missing_cache_is_named_before_anything_is_trained(run, where):
    where.semantics.unlink()
    with pytest.raises(CacheError, match="does not exist") as caught:
        run()
    assert caught.value.where == str(where.semantics) and "sagecc semantics" in caught.value.fix
    assert not OUTPUT.exists()
    run(inputs={"semantics": False})


def test_a_pair_that_any_stage_skipped_is_left_out_and_counted(run, where, prepared):
    cache_world.write_semantics(where.semantics, prepared, missing=[4])
    cache_world.write_matches(where.matches, where.regions, prepared, missing=[0])
    run()
    history = json.loads((OUTPUT / "seed-1/history.json").read_text())
    assert history["remarks"][0] == "2 train pairs have no regions or semantics and are left out"
    assert history["pairs"]["train"] == 2


def test_a_value_that_is_no_number_is_refused(run, where, prepared):
    row = cache_world._region_arrays(0)["descriptors"][0]
    cache_world.spoil(where.regions, row, np.nan)
    cache_world.write_matches(where.matches, where.regions, prepared)
    with pytest.raises(CacheError, match="'p0' in regions"):
        run(inputs={"match_threshold": 0.99})
    assert not OUTPUT.exists()


def test_another_graph_encoder_is_refused_with_what_to_set(run):
    encoder = {"graph_encoder": {"kind": "gcn", "widths": (8, 6)}}
    with pytest.raises(SettingsError, match="kind"):
        run(inputs=encoder)
    run(inputs={**encoder, "pretrained_graph": False})


def test_a_card_that_contradicts_itself_is_refused(run):
    folder = run(epochs=1) / "seed-1"
    card = json.loads((folder / "settings.json").read_text())
    narrow = {**card["inputs"], "regions": {**card["inputs"]["regions"], "shape": [5]}}
    flat = {**card["inputs"], "scenes": {**card["inputs"]["scenes"], "shape": [4]}}
    blind = {name: source for name, source in card["inputs"].items() if name != "regions"}
    for inputs, message in (
        (narrow, "these weights are not this model's"),
        (flat, "contradicts itself"),
        (blind, "contradicts itself: the captioner reads regions"),
        ({}, "contradicts itself: the captioner reads scenes"),
    ):
        (folder / "settings.json").write_text(json.dumps({**card, "inputs": inputs}))
        with pytest.raises(CheckpointError, match=message) as caught:
            load_model(folder, torch.device("cpu"))
        assert caught.value.fix and caught.value.where.startswith(str(folder))


def test_without_a_fusion_the_caches_do_not_show(prepared, scenes, engine, where):
    settings = world.train_settings(epochs=1)
    alone = Paths.under().at(prepared=prepared, scenes=scenes, models=Path("one"), curves=Path("curves"))
    one = content(train.run(settings, alone, engine=engine))
    forget()
    two = content(train.run(settings, where.at(models=Path("two")), engine=engine))
    assert one == two
    assert list(json.loads(one["seed-1/settings.json"])["inputs"]) == ["scenes"]


@pytest.mark.slow
@pytest.mark.parametrize("fusion", [pytest.param("paper", marks=pytest.mark.long), "release"])
def test_two_processes_share_the_steps(run, fusion):
    alone = json.loads((run(Path("alone"), fusion, epochs=2, batch_size=4) / "seed-1/history.json").read_text())
    shared = json.loads(
        (run(Path("shared"), fusion, epochs=2, batch_size=4, devices=2) / "seed-1/history.json").read_text()
    )
    assert shared["epochs"][1]["val_loss"] == pytest.approx(alone["epochs"][1]["val_loss"], rel=0.1)


def test_what_the_stages_themselves_write_is_read(project, engine):
    prepared, masks, sam = region_data.make(project)
    records = read_prepared(prepared)
    texts = ("a house is built along the road", "a road appears on the bareland")
    pairs = [pair.model_copy(update={"captions": texts}) for pair in records.pairs]
    write_prepared(prepared, records.card.name, records.card.root, pairs)
    build_vocabulary(texts, VocabularySettings(min_count=1), "folder").save(prepared / "vocabulary.json")
    region_data.write_masks(masks, prepared, sam)
    paths = Paths.under(project).at(prepared=prepared, masks=masks, models=OUTPUT, captions=Path("captions"))
    regions.run(region_data.settings(), paths, engine=engine)
    matches.run(MatchesSettings(method="nearest"), paths, engine=engine)
    naming = SemanticsSettings(grounding=write_grounding(project), sam=sam, top_q=3, batch_size=2)
    semantics.run(naming, paths, engine=engine)
    hashed = {"encoder": "hashed"}
    build = {"min_count": 1, "merge": {"text": hashed}, "features": hashed}
    encoder = cache_world.ENCODER_SETTINGS.model_dump()
    values = {"build": build, "encoder": encoder, "pretraining": {"epochs": 2}}
    graph.run(parse_section(values, "graph", GraphSettings), paths, engine=engine)
    world.write_scenes(paths.scenes, prepared)
    settings = world.train_settings(epochs=1, captioner=captioner(max_masks=3, match_threshold=0.3))
    train.run(settings, paths, engine=engine)
    caption.run(CaptionSettings(split="train", max_length=8), paths, engine=engine)
    assert len(json.loads((paths.captions / "seed-1.json").read_text())) == len(pairs)
    # Masks made anew leave the regions behind.
    region_data.write_masks(masks, prepared, sam, embeddings=True)
    with pytest.raises(CacheError, match=r"masks\.h5"):
        train.run(settings, paths, engine=engine)
