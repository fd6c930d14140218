from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.datasets.records import read_prepared
from pipeline.errors import CacheError, CheckpointError, DataError, OutputError, SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.paths import Paths
from pipeline.training.checkpoints import load_model, read_card
from pipeline.training.inference import caption_batches
from pipeline.vision.scenes.settings import BackboneSettings
from stages import caption, train
from stages.settings import CaptionSettings
from tests.worlds import world
from tests.worlds.world import train_settings

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS, OUTPUT = Path("models/baseline"), Path("captions/baseline")


def paths_of(prepared: Path, scenes: Path, captions: Path = OUTPUT) -> Paths:
    return Paths.under().at(prepared=prepared, scenes=scenes, models=MODELS, captions=captions)


@pytest.fixture
def models(prepared: Path, scenes: Path, engine: EngineSettings) -> Path:
    """Two seeds of a tiny model, trained a little."""
    return train.run(train_settings(seeds=(2, 11), epochs=1), paths_of(prepared, scenes), engine=engine)


@pytest.fixture
def run(prepared: Path, scenes: Path, models: Path, engine: EngineSettings):
    """Run the stage on the tiny data set."""

    def run(output: Path = OUTPUT, **changes: object) -> Path:
        settings = CaptionSettings(**({"max_length": 8} | changes))
        return caption.run(settings, paths_of(prepared, scenes, output), engine=engine)

    return run


def read(name: str) -> list[dict]:
    return json.loads((OUTPUT / name).read_text())


def test_a_data_set_without_known_no_change_sentences_has_no_mass_of_them(run):
    with pytest.raises(SettingsError, match="no-change sentences of the data set folder"):
        run(change="mass")


def test_each_seed_describes_each_pair_of_the_split(run, models):
    assert run(split="train", batch_size=3) == OUTPUT
    assert {path.name for path in OUTPUT.iterdir()} == {"seed-2.json", "seed-11.json", "provenance.json"}
    for seed in (2, 11):
        results = read(f"seed-{seed}.json")
        assert [result["image_id"] for result in results] == ["p0", "p1", "p2", "p3"]
        assert all(result.keys() == {"image_id", "caption", "score"} for result in results)
        assert all(round(result["score"], 4) == result["score"] < 0 for result in results)
    provenance = json.loads((OUTPUT / "provenance.json").read_text())
    assert provenance["split"] == "train" and provenance["pairs"] == 4 and provenance["remarks"] == []
    assert provenance["models"] == {
        name: sha256_file(models / name / "model.safetensors") for name in ("seed-2", "seed-11")
    }
    assert list(provenance["models"]) == ["seed-2", "seed-11"]
    assert provenance["settings"]["beams"] == 3
    assert str(Path.cwd()) not in (OUTPUT / "provenance.json").read_text()


def test_batches_do_not_change_what_is_said(run):
    captions = []
    for batch_size in (1, 2, 64):
        run(split="train", batch_size=batch_size)
        captions.append([(result["image_id"], result["caption"]) for result in read("seed-2.json")])
    assert captions[0] == captions[1] == captions[2]


def test_same_models_same_bytes(run):
    run(Path("first"))
    run(Path("second"))
    run(Path("second"))
    for path in Path("first").iterdir():
        assert path.read_bytes() == (Path("second") / path.name).read_bytes()


def test_n_best_come_best_first(run):
    run(n_best=3)
    (result,) = read("seed-2.json")
    scores = [entry["score"] for entry in result["n_best"]]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    assert result["n_best"][0] == {"caption": result["caption"], "score": result["score"]}


def test_an_empty_split_is_replaced_and_that_is_said(run, prepared, scenes, models, engine, capfd):
    world.write_pairs(prepared, splits=("train",) * 4 + ("val",) * 2)
    world.write_scenes(scenes, prepared)
    run()
    assert [result["image_id"] for result in read("seed-2.json")] == ["p4", "p5"]
    provenance = json.loads((OUTPUT / "provenance.json").read_text())
    assert provenance["split"] == "val" and "test split has no pairs" in provenance["remarks"][0]
    assert provenance["remarks"][0] in capfd.readouterr().err
    world.write_pairs(prepared, splits=("train",) * 6)
    world.write_scenes(scenes, prepared)
    run()
    assert json.loads((OUTPUT / "provenance.json").read_text())["split"] == "train"


def test_pairs_without_scenes_are_left_out_and_counted(run, prepared, scenes):
    world.write_scenes(scenes, prepared, missing=[3])
    run(split="train")
    assert [result["image_id"] for result in read("seed-2.json")] == ["p0", "p2", "p3"]
    provenance = json.loads((OUTPUT / "provenance.json").read_text())
    assert provenance["remarks"] == ["1 train pairs have no scenes and are not described"]
    assert provenance["left_out"] == {"p1": ["scenes"]} and provenance["pairs"] == 3


def test_a_split_of_skipped_pairs_alone_is_replaced_and_that_is_said(run, prepared, scenes):
    world.write_scenes(scenes, prepared, missing=[10, 11])
    run()
    provenance = json.loads((OUTPUT / "provenance.json").read_text())
    assert provenance["split"] == "val" and provenance["left_out"] == {}
    assert provenance["remarks"] == ["the test split has no pairs with all inputs: the val split is described instead"]
    world.write_scenes(scenes, prepared, missing=range(1, 12))
    with pytest.raises(DataError, match="no pair to describe") as caught:
        run()
    assert "failures.json" in caught.value.fix


def test_another_data_sets_vocabulary_is_refused(run, prepared, scenes):
    world.write_pairs(prepared, name="second-cc")
    world.write_scenes(scenes, prepared)
    with pytest.raises(DataError, match="one of the data set folder") as caught:
        run()
    assert "sagecc train" in caught.value.fix and "allow_other_dataset" in caught.value.fix
    assert not OUTPUT.exists()
    run(allow_other_dataset=True)
    assert read("seed-2.json")


def test_a_vocabulary_of_other_captions_is_refused(run, prepared, scenes):
    world.write_pairs(prepared, captions=(*world.CAPTIONS[:5], ("an unheard word",)))
    world.write_scenes(scenes, prepared)
    with pytest.raises(DataError, match="prepared with other settings or captions"):
        run()


def test_scenes_made_otherwise_than_the_trainings_are_refused(run, prepared, scenes):
    world.write_scenes(scenes, prepared, backbone=BackboneSettings(mean=(1.0, 2.0, 3.0)))
    with pytest.raises(CacheError, match=r"other settings \(mean\)") as caught:
        run()
    assert caught.value.where == str(scenes) and "sagecc scenes" in caught.value.fix
    world.write_scenes(scenes, prepared, weights="1" * 64)
    with pytest.raises(CacheError, match=r"other weights \(backbone\)"):
        run()
    world.write_scenes(scenes, prepared)
    world.write_pairs(prepared, splits=("test",) * 6)
    with pytest.raises(CacheError, match=r"pairs\.jsonl"):
        run()
    assert not OUTPUT.exists()


def test_without_models_there_is_nothing_to_ask(run, models):
    shutil.rmtree(models)
    with pytest.raises(CheckpointError, match="no trained model") as caught:
        run()
    assert "sagecc train" in caught.value.fix


def damage_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-4])


def swap_weights(folder: Path) -> None:
    shutil.copy(folder.with_name("seed-11") / "model.safetensors", folder)


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def drop_card(folder: Path) -> None:
    (folder / "settings.json").unlink()


def extend_card(folder: Path) -> None:
    card = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**card, "colour": "red"}))


def other_shape(folder: Path) -> None:
    """Weights and settings that vouch for each other, but not of this model."""
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if tensors[name].ndim == 2)
    save_file({**tensors, name: tensors[name][:-1].contiguous()}, folder / "model.safetensors")
    card = json.loads((folder / "settings.json").read_text())
    card["weights_sha256"] = sha256_file(folder / "model.safetensors")
    (folder / "settings.json").write_text(json.dumps(card))


def unknown_settings(folder: Path) -> None:
    card = json.loads((folder / "settings.json").read_text())
    card["train"]["captioner"]["graph"] = {}
    (folder / "settings.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_weights, "not the one that settings.json describes"),
        (swap_weights, "not the one that settings.json describes"),
        (drop_weights, "not there"),
        (drop_card, "cannot read"),
        (extend_card, "colour"),
        (other_shape, "are not this model's"),
        (unknown_settings, "does not know"),
    ],
)
def test_a_damaged_model_is_refused(run, models, damage, message):
    damage(models / "seed-2")
    with pytest.raises(CheckpointError, match=message) as caught:
        run()
    assert caught.value.where.startswith(str(models / "seed-2")) and caught.value.fix
    assert not OUTPUT.exists()


def test_a_folder_of_other_files_is_not_replaced(run):
    OUTPUT.mkdir(parents=True)
    (OUTPUT / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        run()
    assert (OUTPUT / "notes.txt").read_text() == "mine"


def test_captions_of_seeds_that_are_gone_go(run, models):
    run()
    shutil.rmtree(models / "seed-11")
    run()
    assert {path.name for path in OUTPUT.iterdir()} == {"seed-2.json", "provenance.json"}


def test_arrays_at_hand_are_described_like_cached_ones(run, models, prepared):
    run(split="train")
    features = world.Features(12, world.SHAPE, 0, ()).values.reshape(6, 2, *world.SHAPE)
    rows = [read_prepared(prepared).index[result["image_id"]] for result in read("seed-2.json")]
    trained = load_model(models / "seed-2", torch.device("cpu"))

    def captions(features: np.ndarray) -> list[str]:
        inputs = {"scenes": torch.from_numpy(features)}
        return [best.text for best, *_ in next(caption_batches(trained, [inputs], CaptionSettings(max_length=8)))]

    assert captions(features[rows].astype(np.float32)) == [result["caption"] for result in read("seed-2.json")]
    with pytest.raises(CheckpointError, match="shape"):
        captions(features[:1, :, :4])


def test_features_that_are_no_numbers_are_refused_with_their_pair(run, scenes):
    values = world.Features(12, world.SHAPE, 0, ()).values
    spoiled = np.full_like(values[2], np.nan)
    scenes.write_bytes(scenes.read_bytes().replace(values[2].tobytes(), spoiled.tobytes()))
    with pytest.raises(CacheError, match="'p1'"):
        run(split="train")
    assert not OUTPUT.exists()


def test_the_card_knows_its_scenes(models):
    card = read_card(models / "seed-11")
    assert card.seed == 11 and card.inputs["scenes"].caches["scenes"].settings["backbone"] == "mini"
    assert card.inputs["scenes"].shape == world.SHAPE
