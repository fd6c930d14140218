"""The state of an unfinished training: everything from which it goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.errors import CheckpointError
from pipeline.training.tensors import load_tensors, save_tensors
from pipeline.vision.weights import load_exactly


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
