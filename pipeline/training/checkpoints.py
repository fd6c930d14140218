"""Files of trained models, and the state of an unfinished training, from which it goes on as if it had never stopped.

A model is a folder: weights, card (how it came about), vocabulary, history.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.datasets.vocabulary import Vocabulary
from pipeline.errors import CheckpointError, DataError, SettingsError
from pipeline.files import atomic_folder, list_files, read_json, sha256_file, write_json
from pipeline.training.inputs import SourceCard
from pipeline.training.model import ImageFront, PairCaptioner, build_model
from pipeline.training.scene_inputs import backbone_of
from pipeline.training.settings import TrainSettings
from pipeline.weights import load_exactly, load_tensors, save_tensors

WEIGHTS, CARD, VOCABULARY, HISTORY = "model.safetensors", "settings.json", "vocabulary.json", "history.json"
FILES = (WEIGHTS, CARD, VOCABULARY, HISTORY)
_TRAIN_AGAIN = "run `sagecc train`"


class ModelCard(BaseModel):
    """What settings.json says about a trained model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[2] = 2
    seed: int
    key: str
    """Content key of everything that the weights depend on."""
    dataset: str
    pairs_sha256: str
    vocabulary_sha256: str
    device: str | None = None
    """Kind of the device that it was trained on, cpu or cuda; None: trained before this was recorded."""
    inputs: dict[str, SourceCard]
    """The inputs that it was trained on, by the name of their source."""
    train: dict[str, Any]
    """The settings of the stage `train` that decide the result, the captioner's among them."""
    weights_sha256: str
    """SHA-256 of model.safetensors."""


@dataclass(frozen=True)
class Trained:
    """A trained model, ready to describe pairs.

    Attributes:
        model: In evaluation mode, on its device.
        vocabulary: The one it was trained with.
        card: Where it comes from.
        folder: Where it lies.
    """

    model: PairCaptioner
    vocabulary: Vocabulary
    card: ModelCard
    folder: Path


def write_model(
    folder: Path, model: PairCaptioner, vocabulary: Vocabulary, history: dict[str, Any], card: dict[str, Any]
) -> Path:
    """Write a model folder, whole or not at all; one that lies there already is replaced.

    Args:
        folder: The final name.
        model: Its weights are written.
        vocabulary: Written beside them.
        history: Content of history.json.
        card: Fields of `ModelCard` but `weights_sha256`.

    Raises:
        OutputError: The folder cannot be written, or holds other files.
    """
    with atomic_folder(folder, replaces=FILES) as partial:
        save_tensors(partial / WEIGHTS, model.state_dict())
        vocabulary.save(partial / VOCABULARY)
        write_json(partial / HISTORY, history)
        full = ModelCard(**card, weights_sha256=sha256_file(partial / WEIGHTS))
        write_json(partial / CARD, full.model_dump(mode="json"))
    return folder


def copy_model(source: Path, folder: Path) -> Path:
    """Copy a model folder, whole or not at all; one that lies there already is replaced.

    Raises:
        OutputError: The target cannot be written, or holds other files.
    """
    with atomic_folder(folder, replaces=FILES) as partial:
        for name in FILES:
            shutil.copyfile(source / name, partial / name)
    return folder


def read_card(folder: Path) -> ModelCard:
    """Read a model's settings.json.

    Raises:
        CheckpointError: It is missing, damaged, or not one.
        UnreadableError: It cannot be read.
    """
    path = folder / CARD
    try:
        values = read_json(path)
        if isinstance(values, dict) and values.get("version") == 1:
            raise CheckpointError("the model was trained by an earlier version of sagecc", where=path, fix=_TRAIN_AGAIN)
        return ModelCard.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"not a model's settings: {field}: {first['msg']}", where=path, fix=_TRAIN_AGAIN
        ) from error
    except DataError as error:
        raise CheckpointError(error.what, where=path, fix=_TRAIN_AGAIN) from error


_Number = Annotated[int, Field(ge=-(2**63), lt=2**63)] | FiniteFloat


class _History(BaseModel):
    """What is read of history.json: names of curves become names of files."""

    epochs: list[dict[Annotated[str, StringConstraints(pattern=r"^[\w-]{1,100}$")], _Number]]


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """Read the records of a model's epochs, as history.json holds them.

    Raises:
        CheckpointError: The file is missing or damaged.
        UnreadableError: It cannot be read.
    """
    path = folder / HISTORY
    try:
        epochs = _History.model_validate(read_json(path)).epochs
    except (ValidationError, DataError) as error:
        raise CheckpointError("not a model's history", where=path, fix=_TRAIN_AGAIN) from error
    if not all("epoch" in record for record in epochs):
        raise CheckpointError("not a model's history: a record names no epoch", where=path, fix=_TRAIN_AGAIN)
    return epochs


def is_complete(folder: Path, key: str) -> bool:
    """Tell whether `folder` holds a whole model with this content key.

    Raises:
        UnreadableError: A file of it cannot be read, so that a model may be there.
    """
    try:
        card = read_card(folder)
        return (
            card.key == key
            and sha256_file(folder / WEIGHTS) == card.weights_sha256
            and bool(read_epochs(folder))
            and Vocabulary.load(folder / VOCABULARY).sha256 == card.vocabulary_sha256
        )
    except (CheckpointError, DataError, FileNotFoundError, NotADirectoryError):
        return False


def train_settings(card: ModelCard, folder: Path) -> TrainSettings:
    """Return the settings that a model in `folder` was trained with, as far as its card keeps them.

    Raises:
        CheckpointError: This version does not know them.
    """
    try:
        return TrainSettings.model_validate(card.train)
    except (ValidationError, SettingsError) as error:
        raise CheckpointError(
            "the model was trained with settings that this version does not know",
            where=folder / CARD,
            fix=_TRAIN_AGAIN,
        ) from error


def load_model(folder: Path, device: torch.device) -> Trained:
    """Load a trained model.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights are not those of the settings beside them.
        DataError: Its vocabulary is missing or damaged.
    """
    card = read_card(folder)
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError("the weights are not there", where=path, fix=_TRAIN_AGAIN)
    if sha256_file(path) != card.weights_sha256 or vocabulary.sha256 != card.vocabulary_sha256:
        name = VOCABULARY if sha256_file(path) == card.weights_sha256 else WEIGHTS
        raise CheckpointError(f"{name} is not the one that {CARD} describes", where=folder, fix=_TRAIN_AGAIN)
    settings = train_settings(card, folder)
    missing = [name for name in settings.input_names() if name not in card.inputs]
    if missing:
        raise CheckpointError(
            f"the card contradicts itself: the captioner reads {missing[0]}, and no such input is named",
            where=folder / CARD,
            fix=_TRAIN_AGAIN,
        )
    try:
        front = None
        if "images" in card.inputs:
            front = ImageFront(backbone_of(card.inputs["images"].caches["scenes"].settings), None, "frozen")
        shapes = {"scenes" if name == "images" else name: source.shape for name, source in card.inputs.items()}
        model = build_model(settings.captioner, vocabulary.size, shapes, seed=card.seed, front=front)
    except (SettingsError, LookupError, TypeError, ValueError) as error:
        what = error.what if isinstance(error, SettingsError) else "its inputs are not described"
        raise CheckpointError(f"the card contradicts itself: {what}", where=folder / CARD, fix=_TRAIN_AGAIN) from error
    weights, _ = load_tensors(path, fix=_TRAIN_AGAIN)
    load_exactly(model, weights, kind="this model's", path=path, fix=_TRAIN_AGAIN, same_types=True)
    return Trained(model.to(device).eval(), vocabulary, card, folder)


def model_folders(models: Path) -> list[Path]:
    """Return the folders of a trained model's seeds, in the order of the seeds.

    Raises:
        CheckpointError: There are none.
        UnreadableError: The folder cannot be listed.
    """
    folders = [
        path for path in list_files(models, "seed-*") if path.is_dir() and path.name.removeprefix("seed-").isdecimal()
    ]
    if not folders:
        raise CheckpointError("there is no trained model", where=models, fix=_TRAIN_AGAIN)
    return sorted(folders, key=lambda path: int(path.name.removeprefix("seed-")))


def remove_other_seeds(models: Path, seeds: Sequence[int]) -> None:
    """Remove the models of seeds that are no longer asked for, so that the folder follows from the settings alone."""
    names = {f"seed-{seed}" for seed in seeds}
    for path in models.glob("seed-*"):
        # Nothing but a model is ever removed.
        if path.name not in names and (path / CARD).is_file():
            shutil.rmtree(path)


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        epoch: The epoch in progress, from 0.
        step: Steps of it that are done.
        loss: Sum of the losses of these steps.
        history: One record per finished epoch.
        best: Validation scores of the kept weights; None before the first validation.
        best_epoch: The epoch they come from, counted from 1 as in the history.
        stale: Validations since then.
        finished: No epoch is left, or patience is at an end.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, float] | None = None
    best_epoch: int | None = None
    stale: int = 0
    finished: bool = False


def save_state(
    path: Path,
    progress: Progress,
    model: nn.Module,
    optimizer: Optimizer,
    best: Mapping[str, Tensor],
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the state as one file, whole or not at all.

    Random numbers need no place in it: each step is seeded by its own number (see `step_seed`).

    Args:
        path: A safetensors file.
        progress: How far the training has come.
        model: Its present weights.
        optimizer: Its moments.
        best: The kept weights by name; empty before the first validation.
        average: The average of the weights by name; None or empty without one.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in (average or {}).items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    save_tensors(path, tensors, asdict(progress))


def load_state(
    path: Path, model: nn.Module, optimizer: Optimizer
) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor]]:
    """Bring model and optimizer to the saved state.

    Returns:
        The progress, and by name the kept weights and the average.

    Raises:
        CheckpointError: The state is damaged or belongs to another model.
        UnreadableError: It cannot be read; it stays.
    """
    fix = f"delete {path} to train from the beginning"
    tensors, about = load_tensors(path, fix=fix)
    load_exactly(model, _under(tensors, "model."), kind="this model's", path=path, fix=fix, same_types=True)
    moments = {key: _under(tensors, f"optimizer.{key}.") for key in ("step", "exp_avg", "exp_avg_sq")}
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    # A parameter that no gradient has reached yet has no moments.
    state = {
        index: {key: values[name] for key, values in moments.items()}
        for index, name in enumerate(trained)
        if all(name in values for values in moments.values())
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    try:
        return Progress(**about), _under(tensors, "best."), _under(tensors, "average.")
    except TypeError as error:
        raise CheckpointError("the training state is of another version", where=path, fix=fix) from error


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
