"""Mutated files of models, graphs, weights, settings and images: success or the project's own error, nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import torch
import yaml

from pipeline.caption_graph.store import read_graph, read_tensors
from pipeline.config import parse_section, read_document
from pipeline.datasets.image_pairs import read_date
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.training.checkpoints import is_complete, load_model, read_card, train_settings
from pipeline.training.region_inputs import ENCODER
from pipeline.weights import load_state_dict, load_tensors
from stages import train
from stages.profiles import profiles
from stages.settings import SECTIONS, resolve
from tests.fuzz import mutators
from tests.fuzz.reading import Tally
from tests.worlds import cache_world, world
from tests.worlds.region_data import write_pairs

SEED: Final = 19
Read = Callable[[Path], object]


def load(folder: Path) -> None:
    """Load a model, as `caption` and `describe` do; its card names the digests of the files as they are now."""
    card = read_card(folder)
    train_settings(card, folder)
    load_model(folder, torch.device("cpu"))


def loaded_whatever_the_digest(path: Path) -> None:
    """Load a model whose weights or vocabulary were mutated before the card was written."""
    folder = path.parent
    card = (folder / "settings.json").read_text()
    values = json.loads(card)
    try:
        if path.name == "vocabulary.json":
            values["vocabulary_sha256"] = Vocabulary.load(path).sha256
        else:
            values["weights_sha256"] = sha256_file(path)
        (folder / "settings.json").write_text(json.dumps(values))
        load(folder)
    finally:
        (folder / "settings.json").write_text(card)


def read_params(path: Path) -> None:
    document = resolve(read_document(path), where=path)
    for name, values in document.items():
        parse_section(values, name, SECTIONS[name], where=str(path))


def read_weights(path: Path) -> None:
    load_tensors(path)
    load_state_dict(path)


@pytest.fixture
def readers(prepared: Path, scenes: Path, project: Path, one_thread: None) -> dict[Path, Read]:
    """Every kind of file, sound, and what reads it."""
    paths = cache_world.paths(project)
    cache_world.write_graph(paths.graph, prepared)
    model = train.run(world.train_settings(epochs=1), paths, engine=EngineSettings(device="cpu")) / "seed-1"
    key = read_card(model).key

    def found_again(path: Path) -> None:
        load(model)
        is_complete(model, key)

    def trained_again(path: Path) -> None:
        train.run(world.train_settings(epochs=1), paths, engine=EngineSettings(device="cpu"))

    torch.save({"model": {"weight": torch.arange(6.0).reshape(2, 3)}}, project / "weights.pth")
    (project / "params.yaml").write_text(json.dumps(next(iter(profiles().values())), indent=1))
    image = next((write_pairs(project / "pictures", [(32, 32)]).parent / "images").rglob("*.png"))
    return {
        model / "settings.json": found_again,
        model / "vocabulary.json": loaded_whatever_the_digest,
        model / "model.safetensors": loaded_whatever_the_digest,
        model / "history.json": trained_again,
        paths.graph / "graph.json": lambda path: read_graph(path.parent),
        paths.graph / "graph.h5": lambda path: read_tensors(path.parent),
        paths.graph / ENCODER: read_weights,
        project / "weights.pth": load_state_dict,
        project / "params.yaml": read_params,
        image: read_date,
    }


def run(readers: dict[Path, Read], files: int, *, start: int = 0) -> Tally:
    """Read `files` mutated files, of all kinds in turn."""
    tally = Tally()
    kinds = list(readers)
    for number in range(start, start + files):
        path = kinds[number % len(kinds)]
        sound = path.read_bytes()
        rng = mutators.generator(SEED, number)
        data = mutators.mutated_bytes(sound, rng)
        if path.suffix in (".json", ".yaml") and rng.random() < 0.7:
            data = mutators.encoded(mutators.mutated_json(yaml.safe_load(sound), rng), rng)
        path.write_bytes(data)
        tally.try_to(lambda path=path: readers[path](path), f"file {number} of seed {SEED}, {path.name}")  # type: ignore[misc]
        path.write_bytes(sound)
    return tally


def test_sound_files_are_read(readers: dict[Path, Read]) -> None:
    for path, read in readers.items():
        read(path)


def test_three_hundred_mutated_files(readers: dict[Path, Read]) -> None:
    tally = run(readers, 300)
    assert tally.outcomes.total() == 300
    assert tally.outcomes["read"] > 20
    assert tally.outcomes["CheckpointError"] > 50


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_thousand_mutated_files(readers: dict[Path, Read]) -> None:
    tally = run(readers, 10_000, start=300)
    print(dict(tally.outcomes), tally.slowest)
    assert tally.outcomes.total() == 10_000
