"""The state of an unfinished training: everything from which it goes on as if it had never stopped.

Trained models as folders: weights, how they came about, vocabulary, history.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.cache.reader import Cache
from pipeline.captioners.scene_encoder import NO_SCENES
from pipeline.captioners.settings import CaptionerSettings
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.errors import CheckpointError, DataError, SageccError, SettingsError
from pipeline.files import atomic_folder, read_json, sha256_file, write_json
from pipeline.training.inputs import backbone_of
from pipeline.training.model import ImageFront, PairCaptioner, build_model
from pipeline.training.region_inputs import EvidenceCard
from pipeline.weights import load_exactly, load_tensors, save_tensors

WEIGHTS, CARD, VOCABULARY, HISTORY = "model.safetensors", "settings.json", "vocabulary.json", "history.json"
FILES = (WEIGHTS, CARD, VOCABULARY, HISTORY)
_TRAIN_AGAIN = "run `sagecc train`"


class ScenesCard(BaseModel):
    """The scenes that a model was trained on, as their cache describes itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, Any]
    settings_hash: str
    weights: dict[str, str]
    """SHA-256 of the backbone's weight file, by name."""
    shape: tuple[int, int, int]
    """(C, h, w) of one date's features."""

    @classmethod
    def of(cls, cache: Cache) -> ScenesCard:
        """Describe an open scenes cache."""
        made = cache.provenance
        channels, height, width = cache.schema.field("features").row_shape
        return cls(
            settings=dict(made.settings),
            settings_hash=made.settings_hash,
            weights=dict(made.weights),
            shape=(channels, height, width),
        )


class ModelCard(BaseModel):
    """What settings.json says about a trained model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    seed: int
    key: str
    """Content key of everything that the weights depend on."""
    dataset: str
    pairs_sha256: str
    vocabulary_sha256: str
    scenes: ScenesCard | None = None
    """None, and not in the file, for a captioner that takes no scenes."""
    evidence: EvidenceCard | None = None
    """What else it was trained on; None, and not in the file, without a fusion."""
    train: dict[str, Any]
    """The settings of the stage `train` that decide the result, the captioner's among them."""
    weights_sha256: str
    """SHA-256 of model.safetensors."""


@dataclass(frozen=True)
class Trained:
    """A trained model, ready to be asked.

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

    @property
    def takes_images(self) -> bool:
        """Whether its inputs are images, its backbone having been trained with it, instead of cached features."""
        return self.model.front is not None


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
        absent = {name for name in ("scenes", "evidence") if getattr(full, name) is None}
        write_json(partial / CARD, full.model_dump(mode="json", exclude=absent))
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
    """
    path = folder / CARD
    try:
        return ModelCard.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"not a model's settings: {place}: {first['msg']}", where=path, fix=_TRAIN_AGAIN
        ) from error
    except DataError as error:
        raise CheckpointError(error.what, where=path, fix=_TRAIN_AGAIN) from error


def is_complete(folder: Path, key: str) -> bool:
    """Tell whether `folder` holds a whole model with this content key."""
    try:
        card = read_card(folder)
        return (
            card.key == key
            and sha256_file(folder / WEIGHTS) == card.weights_sha256
            and (folder / HISTORY).is_file()
            and Vocabulary.load(folder / VOCABULARY).sha256 == card.vocabulary_sha256
        )
    except (SageccError, OSError):
        return False


def captioner_of(card: ModelCard, folder: Path) -> CaptionerSettings:
    """Return the captioner's settings that a model in `folder` was trained with.

    Raises:
        CheckpointError: This version does not know them.
    """
    try:
        return CaptionerSettings.model_validate(card.train["captioner"])
    except (ValidationError, KeyError) as error:
        raise _unknown_settings(folder) from error


def _unknown_settings(folder: Path) -> CheckpointError:
    what = "the model was trained with settings that this version does not know"
    return CheckpointError(what, where=folder / CARD, fix=_TRAIN_AGAIN)


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
    captioner = captioner_of(card, folder)
    try:
        front = None
        if card.train["finetune"] and card.scenes is not None:
            front = ImageFront(backbone_of(card.scenes.settings), None, "frozen")
    except (ValidationError, KeyError) as error:
        raise _unknown_settings(folder) from error
    if card.scenes is None and captioner.scene.features == "cached":
        raise CheckpointError(
            "the card contradicts itself: it names no scenes, and the captioner takes some",
            where=folder / CARD,
            fix=_TRAIN_AGAIN,
        )
    widths = None if card.evidence is None else card.evidence.widths
    shape = NO_SCENES if card.scenes is None else card.scenes.shape
    try:
        model = build_model(captioner, vocabulary.size, shape, seed=card.seed, widths=widths, front=front)
    except SettingsError as error:
        raise CheckpointError(
            f"the card contradicts itself: {error.what}", where=folder / CARD, fix=_TRAIN_AGAIN
        ) from error
    weights, _ = load_tensors(path, fix=_TRAIN_AGAIN)
    load_exactly(model, weights, kind="this model's", path=path, fix=_TRAIN_AGAIN, same_types=True)
    return Trained(model.to(device).eval(), vocabulary, card, folder)


def model_folders(models: Path) -> list[Path]:
    """Return the folders of a trained model's seeds, in the order of the seeds.

    Raises:
        CheckpointError: There are none.
    """
    found = [path for path in models.glob("seed-*") if path.is_dir() and path.name.removeprefix("seed-").isdecimal()]
    if not found:
        raise CheckpointError("there is no trained model", where=models, fix=_TRAIN_AGAIN)
    return sorted(found, key=lambda path: int(path.name.removeprefix("seed-")))


def remove_other_seeds(models: Path, seeds: Sequence[int]) -> None:
    """Remove the models of seeds that are no longer asked for, so that the folder follows from the settings alone."""
    asked = {f"seed-{seed}" for seed in seeds}
    for path in models.glob("seed-*"):
        # Nothing but a model is ever removed.
        if path.name not in asked and (path / CARD).is_file():
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
