"""`sagecc pretrain sam`: the mini SAM, from scratch, on a synthetic world of its own."""

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
from pipeline.training.pretraining import OrthogonalAdamW, begin_with, pretrain, state_key, training_world, write_mini
from pipeline.vision.sam.model import build_sam, encoder_size
from pipeline.vision.sam.pretraining import SamPretraining, SegmentedImages, batches, segment, validate
from pipeline.vision.sam.settings import SamSettings
from stages.settings import PretrainSamSettings


def run(settings: PretrainSamSettings, paths: Paths, *, engine: EngineSettings, output: Path | None = None) -> Path:
    """Train the mini SAM; an interrupted training goes on where its last epoch ended.

    Args:
        settings: The world and the training.
        paths: Writes the world and the training state into `work`.
        engine: Device, and workers that generate the world.
        output: Weights to write (.safetensors, float16); None: sam-mini.safetensors in `paths.pretrained`. The
            validation curve goes beside it as .json.

    Returns:
        The weights.
    """
    title = "pretrain sam"
    output = output or paths.pretrained / "sam-mini.safetensors"
    sam = SamSettings(variant="mini", encoder_size=settings.world.size)
    encoder_size(sam)  # Refuses a size that cannot be trained at before the world is generated.
    world = training_world(settings.world, paths.work, engine=engine, title=title)
    device = resolve_device(engine.device)
    training, validation = read_images(world, "train"), read_images(world, "val")
    # The position encoding's cumsum and the cross-entropy of land cover have no deterministic form on a GPU.
    with deterministic(device, strict=False):
        torch.manual_seed(settings.seed)
        model = SamPretraining(build_sam(sam, random_weights=True, seed=settings.seed), len(LAND_CLASSES)).to(device)
        begun_with = begin_with(model.sam, settings.start, kind="a mini SAM")
        history = pretrain(
            title,
            model,
            settings,
            steps=len(training) // settings.batch_size,
            batches=lambda epoch: batches(
                training,
                settings.batch_size,
                settings.points if epoch >= settings.dense_epochs else 0,
                settings.boxes if epoch >= settings.dense_epochs else 0,
                np.random.default_rng([settings.seed, epoch]),
            ),
            losses=lambda part: model.losses(part.to(device)),
            validate=lambda: validate(model, validation),
            work=paths.work / "pretrain-sam" / content_key(state_key(settings), code_digest(__name__))[:32],
            optimizer=OrthogonalAdamW(
                model.parameters(),
                model.matrices(),
                ratio=settings.matrix_rate / settings.learning_rate,
                lr=settings.learning_rate,
                weight_decay=settings.weight_decay,
            ),
        )
    return write_mini(output, model.sam, settings, history, begun_with=begun_with)


def read_images(world: Path, split: Split) -> SegmentedImages:
    """Read both dates of a split of a generated world, with their segments, into memory."""
    images, land_cover, segments, surfaces = [], [], [], []
    for name in read_objects(world, split):
        for date in "AB":
            at = (split, date, f"{name}.png")
            images.append(read_picture(world, "images", *at).transpose(2, 0, 1))
            land_cover.append(read_picture(world, "semantic", *at))
            parts = segment(read_picture(world, "instances", *at), land_cover[-1])
            segments.append(parts[0])
            surfaces.append(parts[1])
    stacks = (np.stack(part) for part in (images, land_cover, segments, surfaces))
    return SegmentedImages(*(torch.from_numpy(stack) for stack in stacks))
