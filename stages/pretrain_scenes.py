"""`sagecc pretrain scenes`: the mini scene backbone, from scratch, on a synthetic world of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.config import Section
from pipeline.datasets.records import Split
from pipeline.datasets.world.settings import WorldSettings
from pipeline.execution.settings import EngineSettings
from pipeline.vision.settings import BackboneSettings
from stages import paths

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.vision.pretraining import ScenePairs


class PretrainScenesSettings(Section):
    """Training of the mini scene backbone that ships under artifacts/pretrained."""

    world: WorldSettings = Field(
        # Another seed than the data set's, so that no pair of the default profile has been seen.
        default_factory=lambda: WorldSettings(train=1600, val=200, test=0, seed=1_000_003),
        description="the world it is trained on; keep its seed different from prepare.world.seed",
    )
    epochs: int = Field(8, ge=1, description="passes over the training pairs")
    batch: int = Field(12, ge=1, description="pairs per step")
    learning_rate: float = Field(2e-3, gt=0, description="peak of the one-cycle schedule of AdamW")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW's weight decay")
    seed: int = Field(0, ge=0, description="initial weights and order of the pairs")


class PretrainSettings(Section):
    """Training of the mini models; no part of `dvc repro`, since the weights ship with the project."""

    scenes: PretrainScenesSettings = Field(default_factory=PretrainScenesSettings)


def run(settings: PretrainScenesSettings, output: Path, *, engine: EngineSettings) -> Path:
    """Train the mini scene backbone; an interrupted training goes on where its last epoch ended.

    Args:
        settings: The world and the training.
        output: Weights to write (.safetensors, float16); the validation curve goes beside it as .json.
        engine: Device, and workers that generate the world.

    Returns:
        `output`.
    """
    import numpy as np
    import torch

    from pipeline.config import settings_hash
    from pipeline.datasets.world import LAND_CLASSES, generate_world
    from pipeline.datasets.world.emit import CLASSES_FILE
    from pipeline.devices import resolve_device
    from pipeline.execution.progress import track
    from pipeline.files import write_json
    from pipeline.training.determinism import deterministic
    from pipeline.training.state import Progress, load_state, save_state
    from pipeline.training.tensors import save_tensors
    from pipeline.vision.backbones import build_backbone
    from pipeline.vision.pretraining import ScenePretraining, batches, validate

    work = paths.WORK / "pretrain-scenes" / settings_hash(settings)
    world = paths.WORK / "worlds" / settings_hash(settings.world)
    if not (world / CLASSES_FILE).is_file():
        with track("pretrain scenes: the world", settings.world.train + settings.world.val) as bar:
            generate_world(settings.world, world, engine=engine, progress=lambda _done, _all: bar.advance())
    device = resolve_device(engine.device)
    training, validation = read_pairs(world, "train"), read_pairs(world, "val")
    steps = settings.epochs * (len(training) // settings.batch)
    with deterministic(device), track("pretrain scenes", steps) as bar:
        torch.manual_seed(settings.seed)
        backbone = build_backbone("mini", None, seed=settings.seed)
        model = ScenePretraining(backbone, len(LAND_CLASSES), BackboneSettings())
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        progress = Progress()
        if (work / "state.safetensors").is_file():
            progress, _ = load_state(work / "state.safetensors", model, optimizer)
        bar.advance(progress.epoch * (len(training) // settings.batch))
        for epoch in range(progress.epoch, settings.epochs):
            model.train()
            rng = np.random.default_rng([settings.seed, epoch])
            total: dict[str, float] = {}
            for index, part in enumerate(batches(training, settings.batch, rng)):
                step = epoch * (len(training) // settings.batch) + index
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * one_cycle(step / steps)
                losses = model.losses(part.to(device))
                optimizer.zero_grad()
                torch.stack(list(losses.values())).sum().backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                for name, value in losses.items():
                    total[name] = total.get(name, 0.0) + value.item()
                bar.advance()
            count = len(training) // settings.batch
            scores = validate(model, validation.to(device), settings.batch)
            record = {"epoch": epoch + 1, **{f"loss_{name}": value / count for name, value in total.items()}, **scores}
            progress = Progress(epoch=epoch + 1, history=[*progress.history, record])
            save_state(work / "state.safetensors", progress, model, optimizer, {})
            bar.say("  ".join(f"{key} {value:.3f}" for key, value in record.items()))
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in model.backbone.state_dict().items()
    }
    save_tensors(output, weights)
    write_json(
        output.with_suffix(".json"),
        {"settings": settings.model_dump(mode="json"), "validation": progress.history},
    )
    return output


def one_cycle(share: float) -> float:
    """Return the learning rate's factor at `share` of the training: a rise over the first tenth, then a cosine."""
    import math

    return share / 0.1 if share < 0.1 else 0.5 * (1 + math.cos(math.pi * (share - 0.1) / 0.9))


def read_pairs(world: Path, split: Split) -> ScenePairs:
    """Read a split of a generated world with its oracles into memory."""
    import numpy as np
    import torch
    from PIL import Image

    from pipeline.datasets.world import read_objects
    from pipeline.vision.pretraining import ScenePairs

    def picture(*parts: str) -> npt.NDArray[Any]:
        with Image.open(world.joinpath(*parts)) as image:
            return np.asarray(image)

    images, land_cover, centres, change = [], [], [], []
    for name, record in read_objects(world, split).items():
        file = f"{name}.png"
        images.append(np.stack([picture("images", split, date, file).transpose(2, 0, 1) for date in "AB"]))
        land_cover.append(np.stack([picture("semantic", split, date, file) for date in "AB"]))
        change.append(picture("change", split, file) > 0)
        points = np.zeros(land_cover[-1].shape, dtype=bool)
        for date, objects in enumerate((record["before"], record["after"])):
            for item in objects:
                x, y = (int(value) for value in item["centroid"])
                points[date, y, x] = True
        centres.append(points)
    return ScenePairs(*(torch.from_numpy(np.stack(part)) for part in (images, land_cover, centres, change)))
