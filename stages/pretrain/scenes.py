"""`sagecc pretrain scenes`: the mini scene backbone, from scratch, on a synthetic world of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.code import code_digest
from pipeline.datasets.records import Split
from pipeline.datasets.world.pair import read_objects, read_picture
from pipeline.datasets.world.settings import LAND_CLASSES
from pipeline.execution.settings import EngineSettings
from pipeline.files import content_key
from pipeline.paths import Paths
from pipeline.runtime import deterministic, resolve_device
from pipeline.training.pretraining import begin_with, pretrain, state_key, training_world, write_mini
from pipeline.vision.scenes.backbones import build_backbone
from pipeline.vision.scenes.pretraining import ScenePairs, ScenePretraining, batches, validate
from pipeline.vision.scenes.settings import BackboneSettings
from stages.settings import PretrainScenesSettings


def run(settings: PretrainScenesSettings, paths: Paths, *, engine: EngineSettings, output: Path | None = None) -> Path:
    """Train the mini scene backbone; an interrupted training goes on where its last epoch ended.

    Args:
        settings: The world and the training.
        paths: Writes the world and the training state into `work`.
        engine: Device, and workers that generate the world.
        output: Weights to write (.safetensors, float16); None: scenes-mini.safetensors in `paths.pretrained`. The
            validation curve goes beside it as .json.

    Returns:
        The weights.
    """
    title = "pretrain scenes"
    output = output or paths.pretrained / "scenes-mini.safetensors"
    world = training_world(settings.world, paths.work, engine=engine, title=title)
    device = resolve_device(engine.device)
    training, validation = read_pairs(world, "train"), read_pairs(world, "val").to(device)
    with deterministic(device):
        torch.manual_seed(settings.seed)
        backbone = build_backbone("mini", None, seed=settings.seed)
        model = ScenePretraining(backbone, len(LAND_CLASSES), BackboneSettings())
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        begun_with = begin_with(model.backbone, settings.start, kind="a mini scene backbone")
        history = pretrain(
            title,
            model,
            settings,
            steps=len(training) // settings.batch_size,
            batches=lambda epoch: batches(training, settings.batch_size, np.random.default_rng([settings.seed, epoch])),
            losses=lambda part: model.losses(part.to(device)),
            validate=lambda: validate(model, validation, settings.batch_size),
            work=paths.work / "pretrain-scenes" / content_key(state_key(settings), code_digest(__name__))[:32],
        )
    return write_mini(output, model.backbone, settings, history, begun_with=begun_with)


def read_pairs(world: Path, split: Split) -> ScenePairs:
    """Read a split of a generated world with its oracles into memory."""
    images, land_cover, centres, change = [], [], [], []
    for name, record in read_objects(world, split).items():
        file = f"{name}.png"
        images.append(np.stack([read_picture(world, "images", split, date, file).transpose(2, 0, 1) for date in "AB"]))
        land_cover.append(np.stack([read_picture(world, "semantic", split, date, file) for date in "AB"]))
        change.append(read_picture(world, "change", split, file) > 0)
        points = np.zeros(land_cover[-1].shape, dtype=bool)
        for date, objects in enumerate((record["before"], record["after"])):
            for item in objects:
                x, y = (int(value) for value in item["centroid"])
                points[date, y, x] = True
        centres.append(points)
    return ScenePairs(*(torch.from_numpy(np.stack(part)) for part in (images, land_cover, centres, change)))
