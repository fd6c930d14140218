"""The training loop of the mini models, with their optimizer and the synthetic worlds that they are trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pipeline.code import code_digest
from pipeline.config import settings_hash
from pipeline.datasets.world.files import CLASSES_FILE, generate_world
from pipeline.datasets.world.settings import WorldSettings
from pipeline.errors import CheckpointError, DataError
from pipeline.execution.settings import EngineSettings
from pipeline.files import content_key, sha256_file, write_json
from pipeline.progress import track
from pipeline.training.checkpoints import Progress, load_state, save_state
from pipeline.training.settings import PretrainSchedule
from pipeline.weights import load_exactly, load_state_dict, save_tensors

_MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class OrthogonalAdamW(torch.optim.AdamW):
    """AdamW with orthogonalised momentum for the hidden matrices of a transformer (Muon, Jordan et al. 2024).

    https://kellerjordan.github.io/posts/muon/. In training the mini SAM's image encoder it reaches AdamW's loss in
    about half the steps.

    One group of parameters in the model's order, and AdamW's names for the moments, so that a training state holds it
    as it holds AdamW.

    Args:
        parameters: All that are trained, in the model's order.
        matrices: Those of two dimensions that are to move orthogonally.
        ratio: Their learning rate in parts of that of the others.
        lr: Learning rate of the others.
        weight_decay: Of all.
    """

    def __init__(
        self, parameters: Iterable[Tensor], matrices: Iterable[Tensor], *, ratio: float, lr: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        self._matrices = list(matrices)
        self._ratio = ratio

    # torch's types promise the closure's value where one is given; here none is taken.
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient.

        Raises:
            ValueError: A closure is given, which this optimizer does not know.
        """
        if closure is not None:
            raise ValueError("this optimizer takes no closure")
        gradients = [matrix.grad for matrix in self._matrices]
        for matrix in self._matrices:
            matrix.grad = None
        super().step()
        group = self.param_groups[0]
        rate = group["lr"] * self._ratio
        for matrix, gradient in zip(self._matrices, gradients, strict=True):
            matrix.grad = gradient
            if gradient is None:
                continue
            state = self.state[matrix]
            if not state:
                state["step"], state["exp_avg_sq"] = torch.zeros(()), torch.zeros(())
                state["exp_avg"] = torch.zeros_like(matrix)
            state["step"] += 1
            momentum = state["exp_avg"].lerp_(gradient, 1 - _MOMENTUM)
            update = orthogonalised(gradient.lerp(momentum, _MOMENTUM))
            matrix.mul_(1 - rate * group["weight_decay"])
            matrix.add_(update, alpha=-rate * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return about U Vᵀ of a matrix U S Vᵀ, by a Newton-Schulz iteration: singular values end between 0.7 and 1.2."""
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def training_world(settings: WorldSettings, work: Path, *, engine: EngineSettings, title: str) -> Path:
    """Generate a world under `work`, unless it is there already.

    Returns:
        Its folder: images, oracles and objects as `pipeline.datasets.world.files.generate_world` writes them.
    """
    key = content_key(settings_hash(settings), code_digest("pipeline.datasets.world.files"))
    world = work / "worlds" / key[:32]
    # The class list is written last: with it the world is whole.
    if not (world / CLASSES_FILE).is_file():
        with track(f"{title}: the world", settings.train + settings.val + settings.test) as bar:
            generate_world(settings, world, engine=engine, progress=lambda _done, _all: bar.advance())
    return world


Batch = TypeVar("Batch")


def pretrain(
    title: str,
    model: nn.Module,
    schedule: PretrainSchedule,
    *,
    steps: int,
    batches: Callable[[int], Iterable[Batch]],
    losses: Callable[[Batch], dict[str, Tensor]],
    validate: Callable[[], dict[str, float]],
    work: Path,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[dict[str, Any]]:
    """Train `model` in place; an interrupted training goes on where its last epoch ended.

    Call it within `pipeline.runtime.deterministic`, and seed torch before the model is built.

    Args:
        title: What the progress bar is called.
        model: On its device.
        schedule: Epochs, learning rate, weight decay. Batch and seed are the caller's affair, in `batches`.
        steps: Batches that every epoch has.
        batches: Epoch from 0 → its batches, the same ones whenever it is asked.
        losses: Batch → scalars by name; their sum is minimised, their means are recorded as `loss_<name>`.
        validate: Scores of the model as it is, by name. May leave it in evaluation mode.
        work: Folder of the training state.
        optimizer: Of the model's parameters, in one group and in their order; None: AdamW.

    Returns:
        One record per epoch: its number from 1, mean losses, scores.

    Raises:
        CheckpointError: The state in `work` is damaged or belongs to another model.
        DataError: There is not a single batch, so that random weights would be called trained.
    """
    if steps < 1:
        raise DataError(
            f"there are fewer training examples than a batch of {schedule.batch_size}",
            where=title,
            fix="give more, by a larger world or more images, or lower `batch_size`",
        )
    state = work / "state.safetensors"
    if optimizer is None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    progress = Progress()
    if state.is_file():
        progress, *_ = load_state(state, model, optimizer)
    with track(title, schedule.epochs * steps, done=progress.epoch * steps) as bar:
        for epoch in range(progress.epoch, schedule.epochs):
            model.train()
            total: dict[str, Tensor] = {}
            for index, batch in enumerate(batches(epoch)):
                share = (epoch * steps + index) / (schedule.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = schedule.learning_rate * one_cycle(share)
                terms = losses(batch)
                optimizer.zero_grad()
                torch.stack(list(terms.values())).sum().backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                for name, value in terms.items():
                    # In double precision on the device: asking for its value would make the host wait in every step.
                    total[name] = total.get(name, 0.0) + value.detach().double()
                bar.advance()
            means = {f"loss_{name}": value.item() / steps for name, value in total.items()}
            record = {"epoch": epoch + 1, **means, **validate()}
            progress = Progress(epoch=epoch + 1, history=[*progress.history, record])
            save_state(state, progress, model, optimizer, {})
            bar.say("  ".join(f"{key} {value:.3f}" for key, value in record.items()))
    return progress.history


def begin_with(module: nn.Module, start: str | None, *, kind: str) -> str | None:
    """Load the weights that a training is to go on from, if there are any.

    Args:
        module: What `write_mini` wrote the weights of.
        start: Their file; None leaves the module as it is.
        kind: What the weights should be, with its article.

    Returns:
        The SHA-256 of their file.

    Raises:
        CheckpointError: They are missing, damaged, or another model's.
    """
    if start is None:
        return None
    path = Path(start)
    load_exactly(module, load_state_dict(path), kind=kind, path=path, fix="correct the setting `start`")
    return sha256_file(path)


def state_key(schedule: PretrainSchedule) -> str:
    """Return what a training's state is kept under: its settings, and the weights that it begins with.

    Raises:
        CheckpointError: These are not there.
    """
    if schedule.start is None:
        return settings_hash(schedule)
    path = Path(schedule.start)
    if not path.is_file():
        raise CheckpointError("the weights to begin with are not there", where=path, fix="correct the setting `start`")
    return content_key(settings_hash(schedule), sha256_file(path))


def one_cycle(share: float) -> float:
    """Return the learning rate's factor at `share` of the training: a rise over the first tenth, then a cosine."""
    return share / 0.1 if share < 0.1 else 0.5 * (1 + math.cos(math.pi * (share - 0.1) / 0.9))


def write_mini(
    output: Path,
    module: nn.Module,
    schedule: PretrainSchedule,
    history: list[dict[str, Any]],
    *,
    begun_with: str | None = None,
) -> Path:
    """Write what ships: the weights in float16, and beside them (.json) the settings and the validation curve.

    Args:
        output: File of the weights (.safetensors).
        module: What was trained.
        schedule: Its settings; of the weights that it began with only the file's name is told.
        history: What `pretrain` returned.
        begun_with: What `begin_with` returned.

    Returns:
        `output`.
    """
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in module.state_dict().items()
    }
    settings = schedule.model_dump(mode="json")
    if schedule.start is not None:
        settings["start"] = {"file": Path(schedule.start).name, "sha256": begun_with}
    save_tensors(output, weights)
    write_json(output.with_suffix(".json"), {"settings": settings, "validation": history})
    return output
