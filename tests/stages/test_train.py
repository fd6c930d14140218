from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline.datasets.records import Pair, read_prepared
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.errors import CacheError, CheckpointError, DataError, OutputError, SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.paths import Paths
from pipeline.training import run as training
from pipeline.training.checkpoints import load_model, read_card
from pipeline.training.distributed import Interrupted
from pipeline.training.run import hold_out
from pipeline.training.settings import TrainSettings
from pipeline.vision.scenes.backbones import build_backbone
from pipeline.vision.scenes.settings import BackboneSettings
from stages import scenes as scenes_stage
from stages import train
from tests.stages.training_runs import OUTPUT, Impatient, content, forget, kill_until_done, no_training
from tests.worlds import scene_data, world
from tests.worlds.world import train_settings

pytestmark = pytest.mark.usefixtures("one_thread")

FILES = {"model.safetensors", "settings.json", "vocabulary.json", "history.json"}


CURVES = Path("curves/default")


def paths_of(prepared: Path, scenes: Path, models: Path = OUTPUT, curves: Path = CURVES) -> Paths:
    return Paths.under().at(prepared=prepared, scenes=scenes, models=models, curves=curves)


@pytest.fixture
def run(prepared: Path, scenes: Path, engine: EngineSettings):
    """Run the stage on the tiny data set."""

    def run(models: Path = OUTPUT, curves: Path = CURVES, **changes: object) -> Path:
        return train.run(train_settings(**changes), paths_of(prepared, scenes, models, curves), engine=engine)

    return run


def test_a_model_folder_is_whole_and_says_where_it_comes_from(run, prepared, scenes):
    assert run(seeds=(3, 5)) == OUTPUT
    assert {path.name for path in OUTPUT.iterdir()} == {"seed-3", "seed-5"}
    for seed in (3, 5):
        folder = OUTPUT / f"seed-{seed}"
        assert {path.name for path in folder.iterdir()} == FILES
        card = json.loads((folder / "settings.json").read_text())
        assert card["seed"] == seed and card["dataset"] == "folder"
        assert card["pairs_sha256"] == sha256_file(prepared / "pairs.jsonl")
        assert card["weights_sha256"] == sha256_file(folder / "model.safetensors")
        assert card["inputs"]["scenes"]["shape"] == list(world.SHAPE)
        assert card["train"]["epochs"] == 3 and card["train"]["captioner"]["decoder"]["width"] == 16
        history = json.loads((folder / "history.json").read_text())
        assert history["validated_on"] == "val" and history["pairs"] == {"train": 4, "validation": 1}
        assert [record["epoch"] for record in history["epochs"]] == [1, 2, 3]
        assert (folder / "vocabulary.json").read_bytes() == (prepared / "vocabulary.json").read_bytes()
        text = (folder / "settings.json").read_text() + (folder / "history.json").read_text()
        assert str(Path.cwd()) not in text and "second" not in text
    assert content(OUTPUT / "seed-3")["model.safetensors"] != content(OUTPUT / "seed-5")["model.safetensors"]


def test_same_settings_same_bytes_wherever_the_data_lie(run):
    first = content(run(Path("first"), curves=Path("curves/first")))
    for place in ("device", "host", "file"):
        forget()
        assert content(run(Path(place), curves=Path(f"curves/{place}"), data=place)) == first
        assert content(Path(f"curves/{place}")) == content(Path("curves/first"))


def test_curves_hold_each_epoch_once(run):
    run(curves=Path("curves"))
    lines = Path("curves/seed-1/plots/metrics/val_loss.tsv").read_text().splitlines()
    assert lines[0] == "step\tval_loss" and [line.split("\t")[0] for line in lines[1:]] == ["1", "2", "3"]
    rates = Path("curves/seed-1/plots/metrics/learning_rate.tsv").read_text().splitlines()
    assert [line.split("\t")[1] for line in rates[1:]] == ["0.003"] * 3


def test_finished_seeds_are_not_trained_again(run, monkeypatch):
    run(seeds=(1,), curves=Path("curves"))
    before, curves = content(OUTPUT), content(Path("curves"))
    trained: list[int] = []
    train_seeds = train.train_seeds
    monkeypatch.setattr(train, "train_seeds", lambda job, ranks: trained.extend(job.seeds) or train_seeds(job, ranks))
    run(seeds=(1, 2), curves=Path("curves"))
    assert trained == [2]
    assert content(OUTPUT / "seed-1") == {name.partition("/")[2]: data for name, data in before.items()}
    # DVC empties outputs before it runs a stage: they come back without training.
    import shutil

    shutil.rmtree(OUTPUT)
    shutil.rmtree("curves")
    monkeypatch.setattr(train, "train_seeds", no_training)
    run(seeds=(1,), curves=Path("curves"))
    assert content(OUTPUT) == before and content(Path("curves")) == curves


def test_validation_has_a_batch_size_of_its_own(run, monkeypatch):
    batches: list[int] = []
    validator = training.Validator

    def noting(loader, steps, *arguments):
        batches.extend(len(step.pairs) for step in steps)
        return validator(loader, steps, *arguments)

    monkeypatch.setattr(training, "Validator", noting)
    run(overfit=4, batch_size=1, validation_batch_size=3, epochs=1)
    assert batches == [3, 1]


def test_a_damaged_model_is_made_good(run):
    before = content(run())
    path = OUTPUT / "seed-1" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert content(run()) == before
    (OUTPUT / "seed-1" / "history.json").unlink()
    assert content(run()) == before


@pytest.mark.parametrize("change", ["settings", "scenes", "pairs"])
def test_a_model_of_other_settings_or_inputs_is_not_taken_for_done(run, prepared, scenes, change):
    before = content(run())["seed-1/model.safetensors"]
    changes: dict[str, object] = {}
    if change == "settings":
        changes["learning_rate"] = 1e-3
    elif change == "scenes":
        world.write_scenes(scenes, prepared, seed=1, weights="1" * 64)
    else:
        world.write_pairs(prepared, captions=(*world.CAPTIONS[:2], ("houses",), *world.CAPTIONS[3:]))
        world.write_scenes(scenes, prepared)
    assert content(run(**changes))["seed-1/model.safetensors"] != before


def test_a_mended_image_is_learnt_from(project, engine):
    prepared, settings = scene_data.make_data(project, 3)
    words = VocabularySettings(min_count=1)
    build_vocabulary(["a road is built"], words, "folder").save(prepared / "vocabulary.json")
    paths = paths_of(prepared, project / "scenes.h5")
    skipping = engine.model_copy(update={"on_bad_item": "skip"})
    broken = project / "images" / "A" / "pair_001.png"
    whole = broken.read_bytes()

    def run() -> tuple[int, bytes]:
        paths.scenes.unlink(missing_ok=True)
        scenes_stage.run(settings, paths, engine=skipping)
        train.run(train_settings(), paths, engine=engine)
        history = json.loads((OUTPUT / "seed-1" / "history.json").read_text())
        return history["pairs"]["train"], (OUTPUT / "seed-1" / "model.safetensors").read_bytes()

    broken.write_bytes(b"")
    fewer, incomplete = run()
    broken.write_bytes(whole)
    mended, weights = run()
    assert (fewer, mended) == (2, 3) and weights != incomplete
    forget()
    assert run() == (mended, weights)


def test_models_of_seeds_that_are_no_longer_asked_for_go_and_nothing_else(run):
    run(seeds=(1, 2))
    (OUTPUT / "seed-99").mkdir()
    (OUTPUT / "seed-99" / "notes.txt").write_text("mine")
    run(seeds=(2,))
    assert {path.name for path in OUTPUT.iterdir()} == {"seed-2", "seed-99"}


def test_ctrl_c_saves_and_the_same_call_goes_on(run, monkeypatch, capfd):
    whole = content(run(Path("whole"), curves=Path("curves/whole")))
    forget()
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(training, "Loop", Impatient)
        with pytest.raises(Interrupted, match=r"epoch 2 of 3") as caught:
            run(curves=Path("curves/broken"))
    assert caught.value.exit_code == 130 and "same command" in caught.value.fix
    assert signal.getsignal(signal.SIGINT) is handler
    assert not OUTPUT.exists() and Path(caught.value.where).is_file()
    assert content(run(curves=Path("curves/broken"))) == whole
    assert content(Path("curves/broken")) == content(Path("curves/whole"))
    assert not Path(caught.value.where).exists()
    assert "best bleu_4" in capfd.readouterr().err


@pytest.mark.long
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(run, prepared, scenes):
    changes = {"epochs": 40, "batch_size": 1, "captions_per_pair": "one", "validate_every": 7}
    whole = content(run(Path("whole"), **changes))
    forget()
    assert kill_until_done(train_settings(**changes), paths_of(prepared, scenes), whole, most=20, longest=0.5) >= 3


def test_a_training_of_another_device_in_another_precision_is_not_gone_on_with(run, monkeypatch, capfd):
    """A GPU is played by the CPU: `auto` then means bf16, in which the CPU trains as well."""
    folder = run(epochs=2) / "seed-1"
    on_cpu = read_card(folder)
    assert (on_cpu.device, on_cpu.train["precision"], on_cpu.train["devices"]) == ("cpu", "fp32", 1)
    # What `auto` means is what counts.
    run(epochs=2, precision="fp32", devices="auto")
    assert "seed 1: trained already" in capfd.readouterr().err
    monkeypatch.setattr(TrainSettings, "resolved", _as_on_a_gpu(TrainSettings.resolved))
    run(epochs=2)
    told = capfd.readouterr().err
    assert "trained already" not in told
    assert "there is a training in fp32; this one begins anew in bf16" in told and "train.precision to fp32" in told
    card = read_card(folder)
    assert card.train["precision"] == "bf16" and card.key != on_cpu.key
    assert card.weights_sha256 != on_cpu.weights_sha256
    # Who says which one is meant gets it, without a word.
    run(epochs=2, precision="fp32")
    assert read_card(folder) == on_cpu
    assert "begins anew" not in capfd.readouterr().err


def test_a_state_of_another_precision_is_not_gone_on_with(run, monkeypatch, capfd):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(training, "Loop", Impatient)
        run()
    monkeypatch.setattr(TrainSettings, "resolved", _as_on_a_gpu(TrainSettings.resolved))
    anew = content(run())
    assert "begins anew in bf16" in capfd.readouterr().err
    forget()
    shutil.rmtree(OUTPUT)
    assert content(run()) == anew


def _as_on_a_gpu(resolved: Any) -> Any:
    return lambda settings, device, devices: resolved(settings, "cuda", devices)


def test_two_runs_do_not_work_in_one_folder(run, monkeypatch):
    def again(job, ranks):
        with pytest.raises(OutputError, match="another run"):
            run()

    monkeypatch.setattr(train, "train_seeds", again)
    run()


def test_scenes_of_other_pairs_are_refused(run, prepared, scenes):
    world.write_pairs(prepared, captions=(("other",), *world.CAPTIONS[1:]))
    with pytest.raises(CacheError, match=r"pairs\.jsonl") as caught:
        run()
    assert caught.value.where == str(scenes) and "sagecc scenes" in caught.value.fix


@pytest.mark.parametrize(
    ("ids", "message"),
    [(["p0", "p1", "p2", "p3", "p4"], "'p5' is not in it"), (["p1", "p0", "p2", "p3", "p4", "p5"], "another order")],
)
def test_scenes_that_lack_a_pair_or_mix_them_up_are_refused(run, prepared, scenes, ids, message):
    world.write_scenes(scenes, prepared, ids=ids)
    with pytest.raises(CacheError, match=message) as caught:
        run()
    assert "sagecc scenes" in caught.value.fix and not OUTPUT.exists()


def test_missing_scenes_are_named(run, scenes):
    scenes.unlink()
    with pytest.raises(CacheError, match="does not exist") as caught:
        run()
    assert caught.value.where == str(scenes)


@pytest.mark.parametrize("place", ["device", "host", "file"])
def test_features_that_are_no_numbers_are_refused_with_their_pair(run, scenes, place):
    values = world.Features(12, world.SHAPE, 0, ()).values
    spoiled = values[5].copy()
    spoiled[0, 0, 0] = np.nan
    scenes.write_bytes(scenes.read_bytes().replace(values[5].tobytes(), spoiled.tobytes()))
    with pytest.raises(CacheError, match="'p2'"):
        run(data=place)
    assert not OUTPUT.exists()


def test_pairs_without_captions_or_scenes_are_left_out_and_counted(run, prepared, scenes, capfd):
    world.write_pairs(prepared, captions=(world.CAPTIONS[0], (), *world.CAPTIONS[2:]))
    world.write_scenes(scenes, prepared, missing=[6])
    run()
    history = json.loads((OUTPUT / "seed-1/history.json").read_text())
    assert history["pairs"] == {"train": 2, "validation": 1}
    assert history["remarks"] == [
        "1 train pairs have no scenes and are left out",
        "1 train pairs have no captions and are left out",
    ]
    assert all(remark in capfd.readouterr().err for remark in history["remarks"][:1])


def test_without_any_captions_there_is_nothing_to_train_on(run, prepared, scenes):
    world.write_pairs(prepared, captions=((), (), (), (), *world.CAPTIONS[4:]))
    world.write_scenes(scenes, prepared)
    with pytest.raises(DataError, match="no pair of the training split"):
        run()


def test_without_a_validation_split_the_training_pairs_are_validated_on(run, prepared, scenes, capfd):
    world.write_pairs(prepared, splits=("train",) * 6)
    world.write_scenes(scenes, prepared)
    run()
    history = json.loads((OUTPUT / "seed-1/history.json").read_text())
    assert history["validated_on"] == "train" and history["pairs"] == {"train": 6, "validation": 6}
    assert "training pairs are validated on instead" in history["remarks"][0]
    assert history["remarks"][0] in capfd.readouterr().err


def test_training_pairs_can_be_held_out(run):
    run(hold_out=0.25)
    history = json.loads((OUTPUT / "seed-1/history.json").read_text())
    assert history["validated_on"] == "held-out" and history["pairs"] == {"train": 3, "validation": 1}
    assert "not learnt from" in history["remarks"][0]


def test_runs_of_neighbours_are_held_out_all_over_the_split():
    pairs = [Pair(id=f"{i:04d}", split="train", before="a", after="b") for i in range(1000)]
    learnt, held_out = hold_out(pairs, 0.1)
    assert sorted([*learnt, *held_out], key=lambda pair: pair.id) == pairs
    assert [int(pair.id) for pair in held_out] == [160 * run + i - 16 for run in range(1, 7) for i in range(16)]
    assert hold_out(pairs, 0.0) == (pairs, [])


def test_overfit_takes_the_first_pairs(run):
    run(overfit=2)
    history = json.loads((OUTPUT / "seed-1/history.json").read_text())
    assert history["validated_on"] == "train" and history["pairs"] == {"train": 2, "validation": 2}


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": (1, 1)},
        {"seeds": ()},
        {"seeds": (-1,)},
        {"devices": 0},
        {"name": "../x"},
        {"learning_rate": 0.0},
        {"select": "s_m"},
        {"data": "tape"},
    ],
)
def test_settings_out_of_range_are_refused(changes):
    from pipeline.config import parse_section

    with pytest.raises(SettingsError, match=r"train\."):
        parse_section(changes, "train", TrainSettings)


@pytest.fixture
def images(project: Path) -> tuple[Path, Path, BackboneSettings]:
    """Pairs with images of 32 pixels, scenes of the mini backbone's shape, and random backbone weights."""
    generator = np.random.default_rng(0)
    sha256: dict[str, dict[str, str]] = {}
    for index in range(6):
        for date, folder in (("before", "A"), ("after", "B")):
            path = Path("images") / folder / f"p{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
            sha256.setdefault(f"p{index}", {})[date] = sha256_file(path)
    save_file(build_backbone("mini", None).state_dict(), "mini.safetensors")
    backbone = BackboneSettings(weights="mini.safetensors")
    prepared = world.write_pairs(Path("prepared"), sha256=sha256)
    world.write_scenes(
        Path("scenes.h5"), prepared, shape=(256, 2, 2), backbone=backbone, weights=sha256_file(Path("mini.safetensors"))
    )
    return prepared, Path("scenes.h5"), backbone


@pytest.mark.parametrize("batch_norm", ["frozen", "trained", "all"])
def test_finetuning_trains_the_backbone_from_layer2_on(images, engine, batch_norm):
    prepared, scenes, _ = images
    settings = train_settings(finetune=True, batch_norm=batch_norm, epochs=1)
    folder = train.run(settings, paths_of(prepared, scenes), engine=engine) / "seed-1"
    before, after = load_file("mini.safetensors"), load_file(folder / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[f"front.backbone.{name}"])}
    early = {name for name in before if name.startswith(("conv1.", "bn1.", "layer1."))}
    statistics = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert changed - statistics and not (changed - statistics) & early
    assert bool(changed & statistics & early) == (batch_norm == "all")
    assert bool(changed & statistics - early) == (batch_norm != "frozen")
    assert load_model(folder, torch.device("cpu")).model.front is not None


def test_finetuning_is_deterministic_wherever_the_images_lie(images, engine):
    prepared, scenes, _ = images
    models = []
    for place in ("device", "host", "file"):
        settings = train_settings(finetune=True, epochs=1, data=place)
        models.append(content(train.run(settings, paths_of(prepared, scenes, Path(place)), engine=engine)))
        forget()
    assert models[0] == models[1] == models[2]


def test_finetuning_refuses_other_backbone_weights_and_changed_images(images, engine):
    prepared, scenes, _ = images
    settings = train_settings(finetune=True, epochs=1)
    save_file(build_backbone("mini", None, seed=1).state_dict(), "mini.safetensors")
    with pytest.raises(CheckpointError, match="not the backbone weights"):
        train.run(settings, paths_of(prepared, scenes), engine=engine)
    forget()
    save_file(build_backbone("mini", None).state_dict(), "mini.safetensors")
    Image.new("RGB", (32, 32)).save("images/B/p1.png")
    with pytest.raises(DataError, match="has changed") as caught:
        train.run(settings, paths_of(prepared, scenes), engine=engine)
    assert caught.value.where == str(Path("images/B/p1.png"))


def test_images_of_another_size_are_refused_or_resized(images, engine):
    prepared, scenes, backbone = images
    Image.new("RGB", (40, 40)).save("images/B/p1.png")
    hashes = {pair.id: dict(pair.sha256) for pair in read_prepared(prepared).pairs}
    hashes["p1"]["after"] = sha256_file(Path("images/B/p1.png"))
    world.write_pairs(prepared, sha256=hashes)
    weights = sha256_file(Path("mini.safetensors"))
    settings = train_settings(finetune=True, epochs=1)
    world.write_scenes(scenes, prepared, shape=(256, 2, 2), backbone=backbone, weights=weights)
    with pytest.raises(DataError, match="40×40 pixels, the first one 32×32"):
        train.run(settings, paths_of(prepared, scenes), engine=engine)
    sized = backbone.model_copy(update={"size": 32})
    world.write_scenes(scenes, prepared, shape=(256, 2, 2), backbone=sized, weights=weights)
    train.run(settings, paths_of(prepared, scenes), engine=engine)
    assert (OUTPUT / "seed-1").is_dir()


@pytest.mark.slow
def test_two_processes_share_the_steps(run):
    alone = json.loads((run(Path("alone"), epochs=2, batch_size=4) / "seed-1/history.json").read_text())
    shared = json.loads((run(Path("shared"), epochs=2, batch_size=4, devices=2) / "seed-1/history.json").read_text())
    assert len(shared["epochs"]) == 2
    # Each process averages over its own captions, and draws its own dropout: close, not equal.
    assert shared["epochs"][1]["val_loss"] == pytest.approx(alone["epochs"][1]["val_loss"], rel=0.1)


@pytest.mark.slow
def test_an_error_in_a_shared_run_is_the_users_error(run, scenes):
    values = world.Features(12, world.SHAPE, 0, ()).values
    spoiled = np.full_like(values[5], np.nan)
    scenes.write_bytes(scenes.read_bytes().replace(values[5].tobytes(), spoiled.tobytes()))
    started = time.monotonic()
    with pytest.raises(CacheError, match="'p2'"):
        run(devices=2)
    assert time.monotonic() - started < 120
