from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.captioners.settings import CaptionerSettings
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.errors import CheckpointError, OutputError
from pipeline.files import read_json, sha256_file, write_json
from pipeline.training.checkpoints import (
    CARD,
    FILES,
    ModelCard,
    Progress,
    copy_model,
    is_complete,
    load_model,
    load_state,
    model_folders,
    read_card,
    remove_other_seeds,
    save_state,
    train_settings,
    write_model,
)
from pipeline.training.inputs import CacheCard, SourceCard
from pipeline.training.model import build_model
from pipeline.weights import load_exactly, load_tensors, save_tensors
from tests.captioners import toy
from tests.worlds import cache_world, world

CPU = torch.device("cpu")


def small(width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    model(torch.randn(5, 2, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_training_goes_on_from_a_state_as_if_it_had_not_stopped(tmp_path):
    model = small()
    model[0].bias.requires_grad_(False)  # an index of the optimizer is not an index of the model
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for seed in range(3):
        step(model, optimizer, seed)
    progress = Progress(epoch=2, step=1, loss=0.1 + 0.2, history=[{"epoch": 1, "loss": 0.5}], best=0.25, best_epoch=1)
    best = {"0.weight": torch.ones(2)}
    save_state(tmp_path / "state.safetensors", progress, model, optimizer, best, {"0.bias": torch.zeros(2)})

    other = small()
    other[0].bias.requires_grad_(False)
    resumed = torch.optim.Adam([p for p in other.parameters() if p.requires_grad], lr=0.1)
    restored, best_weights, average = load_state(tmp_path / "state.safetensors", other, resumed)
    assert restored == progress
    assert best_weights.keys() == {"0.weight"} and torch.equal(best_weights["0.weight"], torch.ones(2))
    assert average.keys() == {"0.bias"} and torch.equal(average["0.bias"], torch.zeros(2))
    for seed in range(3, 5):
        step(model, optimizer, seed)
        step(other, resumed, seed)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_same_tensors_same_bytes(tmp_path):
    tensors = {"b": torch.arange(4.0), "a": torch.eye(3)}
    first = save_tensors(tmp_path / "first", tensors, {"x": 1, "y": [2.5, None]}).read_bytes()
    second = save_tensors(tmp_path / "second", dict(reversed(tensors.items())), {"x": 1, "y": [2.5, None]}).read_bytes()
    assert first == second
    loaded, about = load_tensors(tmp_path / "first")
    assert torch.equal(loaded["a"], torch.eye(3)) and about == {"x": 1, "y": [2.5, None]}


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    path = save_tensors(tmp_path / "weights.safetensors", {"a": torch.eye(3)})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutputError, match="cannot write") as caught:
            save_tensors(path, {"a": torch.zeros(100, 100)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.where == str(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name] and path.read_bytes() == before


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"\x80\x04K\x01."])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = save_tensors(tmp_path / "weights.safetensors", {"a": torch.eye(3)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tensors(path)
    with pytest.raises(CheckpointError, match="not there"):
        load_tensors(tmp_path / "absent.safetensors")


def test_weights_of_another_model_are_refused(tmp_path):
    weights = small().state_dict()
    for other in (
        small(4).state_dict(),
        {name: value for name, value in weights.items() if name != "2.bias"},
        {**weights, "extra": torch.zeros(1)},
        {name: value.double() for name, value in weights.items()},
    ):
        with pytest.raises(CheckpointError, match="are not this model's"):
            load_exactly(small(), other, kind="this model's", path=tmp_path / "weights.safetensors", same_types=True)


def test_a_state_of_another_version_is_refused(tmp_path):
    model = small()
    optimizer = torch.optim.Adam(model.parameters())
    path = tmp_path / "state.safetensors"
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    save_tensors(path, tensors, {"epoch": 1, "colour": "red"})
    with pytest.raises(CheckpointError, match="another version") as caught:
        load_state(path, model, optimizer)
    assert str(path) in caught.value.fix
    assert json.loads(json.dumps(Progress().__dict__))  # all of it is plain JSON


SCENE_CARD = SourceCard(
    shape=world.SHAPE,
    caches={
        "scenes": CacheCard(settings={}, settings_hash="a", weights={"backbone": "b"}, upstream={"pairs.jsonl": "c"})
    },
)
TOY_CARDS = {"scenes": SCENE_CARD, "maps": SourceCard(shape=(4, 2, 4))}
FUSED_CARDS = {
    "scenes": SCENE_CARD,
    "regions": SourceCard(shape=(6,)),
    "semantics": SourceCard(shape=(5,)),
    "graph": SourceCard(shape=(4, 3), files={"graph.json": "d", "graph.h5": "e"}),
}
VOCABULARY = build_vocabulary(
    [text for texts in world.CAPTIONS for text in texts], VocabularySettings(min_count=1, max_length=12), "folder"
)


def write(
    folder: Path, captioner: CaptionerSettings = world.TINY, inputs: dict[str, SourceCard] | None = None, seed: int = 7
) -> Path:
    """Write a model that was never trained."""
    inputs = inputs or {"scenes": SCENE_CARD}
    shapes = {name: card.shape for name, card in inputs.items()}
    card: dict[str, Any] = {
        "seed": seed,
        "key": "key",
        "dataset": "folder",
        "pairs_sha256": "c",
        "vocabulary_sha256": VOCABULARY.sha256,
        "inputs": inputs,
        "train": world.train_settings(captioner=captioner).result_values(),
    }
    history = {"epochs": [{"epoch": 1}]}
    return write_model(folder, build_model(captioner, VOCABULARY.size, shapes, seed=seed), VOCABULARY, history, card)


def change_card(folder: Path, **changes: Any) -> None:
    write_json(folder / CARD, {**read_json(folder / CARD), **changes})


@pytest.mark.parametrize(
    ("captioner", "inputs"),
    [(world.TINY, {"scenes": SCENE_CARD}), (cache_world.captioner(), FUSED_CARDS), (toy.ToySettings(), TOY_CARDS)],
    ids=["none", "paper", "toy"],
)
def test_a_model_is_loaded_as_it_was_written(tmp_path, captioner, inputs):
    with toy.registered():
        folder = write(tmp_path / "seed-7", captioner, inputs)
        trained = load_model(folder, CPU)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert trained.folder == folder and not trained.model.training
    assert trained.card.inputs == inputs and trained.card.version == 2
    assert trained.card.weights_sha256 == sha256_file(folder / "model.safetensors")
    # Without what is idle with its fusion, which no card keeps.
    assert trained.model.captioner.settings.model_dump() == captioner.model_dump()
    shapes = {name: card.shape for name, card in inputs.items()}
    assert trained.model.captioner.shapes == shapes
    expected = build_model(captioner, VOCABULARY.size, shapes, seed=7).state_dict()
    assert trained.model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in trained.model.state_dict().items())


def test_a_model_of_an_earlier_version_is_refused(tmp_path):
    """Its card tells scenes and other inputs apart, and has no `inputs`."""
    folder = write(tmp_path / "seed-7")
    card = read_json(folder / CARD)
    earlier = {name: value for name, value in card.items() if name not in ("version", "inputs")}
    write_json(folder / CARD, {"version": 1, **earlier, "scenes": {"shape": [8, 2, 2]}, "evidence": None})
    for read in (read_card, lambda folder: load_model(folder, CPU)):
        with pytest.raises(CheckpointError, match="earlier version") as caught:
            read(folder)
        assert caught.value.where == str(folder / CARD) and "sagecc train" in caught.value.fix
    assert not is_complete(folder, "key")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "version"),
        ({"colour": "red"}, "colour"),
        ({"seed": "one"}, "seed"),
        ({"inputs": {"scenes": {}}}, "shape"),
    ],
)
def test_a_card_that_is_none_is_refused(tmp_path, changes, message):
    folder = write(tmp_path / "seed-7")
    change_card(folder, **changes)
    with pytest.raises(CheckpointError, match=f"not a model's settings: .*{message}") as caught:
        read_card(folder)
    assert caught.value.where == str(folder / CARD) and "sagecc train" in caught.value.fix


def test_a_card_that_is_missing_or_no_json_is_refused(tmp_path):
    folder = write(tmp_path / "seed-7")
    for damage in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        damage(folder / CARD)
        with pytest.raises(CheckpointError) as caught:
            read_card(folder)
        assert "sagecc train" in caught.value.fix


def test_a_card_survives_json(tmp_path):
    card = read_card(write(tmp_path / "seed-7", cache_world.captioner(), FUSED_CARDS))
    assert ModelCard.model_validate_json(card.model_dump_json()) == card
    assert list(card.inputs) == ["scenes", "regions", "semantics", "graph"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"scenes": SCENE_CARD, "regions": SourceCard(shape=(6,))}, "reads semantics, and no such input"),
        ({**FUSED_CARDS, "graph": SourceCard(shape=(4,))}, "contradicts itself"),
        ({**FUSED_CARDS, "regions": SourceCard(shape=())}, "contradicts itself"),
        ({**FUSED_CARDS, "scenes": SourceCard(shape=(8, 4))}, "contradicts itself"),
        ({**FUSED_CARDS, "scenes": SourceCard(shape=(6, 2, 2))}, "not this model's|are not"),
    ],
)
def test_a_card_that_contradicts_itself_or_the_weights_is_refused(tmp_path, inputs, message):
    folder = write(tmp_path / "seed-7", cache_world.captioner(), FUSED_CARDS)
    change_card(folder, inputs={name: card.model_dump(mode="json") for name, card in inputs.items()})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder, CPU)
    assert "sagecc train" in caught.value.fix


def test_settings_of_another_version_are_refused(tmp_path):
    folder = write(tmp_path / "seed-7")
    card = read_card(folder)
    assert train_settings(card, folder).captioner == world.TINY
    for captioner in ({"kind": "lost"}, {"kind": "sage-cc", "colour": "red"}):
        changed = card.model_copy(update={"train": {**card.train, "captioner": captioner}})
        with pytest.raises(CheckpointError, match="settings that this version does not know") as caught:
            train_settings(changed, folder)
        assert caught.value.where == str(folder / CARD) and "sagecc train" in caught.value.fix


@pytest.mark.parametrize("name", ["model.safetensors", "vocabulary.json"])
def test_a_file_that_the_card_does_not_describe_is_refused(tmp_path, name):
    folder = write(tmp_path / "seed-7")
    assert is_complete(folder, "key") and not is_complete(folder, "other")
    if name == "vocabulary.json":
        build_vocabulary(["another text"], VocabularySettings(min_count=1), "folder").save(folder / name)
    else:
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=f"{name} is not the one that settings.json describes") as caught:
        load_model(folder, CPU)
    assert caught.value.where == str(folder) and not is_complete(folder, "key")


def test_models_are_copied_listed_and_removed_by_their_seeds(tmp_path):
    with pytest.raises(CheckpointError, match="no trained model") as caught:
        model_folders(tmp_path)
    assert "sagecc train" in caught.value.fix
    first = write(tmp_path / "seed-10", seed=10)
    copy = copy_model(first, tmp_path / "seed-9")
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in first.iterdir()
    }
    (tmp_path / "seed-x").mkdir()
    (tmp_path / "seed-3").mkdir()
    assert [folder.name for folder in model_folders(tmp_path)] == ["seed-3", "seed-9", "seed-10"]
    remove_other_seeds(tmp_path, [9])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed-3", "seed-9", "seed-x"]
