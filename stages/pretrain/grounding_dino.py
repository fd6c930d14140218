"""`sagecc pretrain grounding-dino`: the mini Grounding DINO, from scratch, on a synthetic world of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.code import code_digest
from pipeline.execution.settings import EngineSettings
from pipeline.files import content_key
from pipeline.paths import Paths
from pipeline.runtime import deterministic, resolve_device
from pipeline.training.pretraining import begin_with, pretrain, state_key, training_world, write_mini
from pipeline.vision.grounding.model import build_grounding_dino
from pipeline.vision.grounding.pretraining import GroundingPretraining, validate
from pipeline.vision.grounding.prompts import write_text_encoder
from pipeline.vision.grounding.scenes import grounding_batches, read_scenes
from pipeline.vision.grounding.settings import GroundingSettings
from stages.settings import PretrainGroundingSettings


def run(
    settings: PretrainGroundingSettings, paths: Paths, *, engine: EngineSettings, output: Path | None = None
) -> Path:
    """Train the mini Grounding DINO; an interrupted training goes on where its last epoch ended.

    Args:
        settings: The world and the training.
        paths: Writes the world and the training state into `work`.
        engine: Device, and workers that generate the world.
        output: Weights to write (.safetensors, float16); None: grounding-dino-mini.safetensors in `paths.pretrained`.
            The validation curve goes beside it as .json, vocabulary and configuration of its BERT into the folder of
            the same name without suffix.

    Returns:
        The weights.
    """
    title = "pretrain grounding-dino"
    output = output or paths.pretrained / "grounding-dino-mini.safetensors"
    world = training_world(settings.world, paths.work, engine=engine, title=title)
    device = resolve_device(engine.device)
    text_encoder = write_text_encoder(output.with_suffix(""))
    training, validation = read_scenes(world, "train"), read_scenes(world, "val").to(device)
    # The backward pass of deformable attention (grid_sample) has no deterministic form on a GPU.
    with deterministic(device, strict=False):
        model = build_grounding_dino(
            GroundingSettings(text_encoder=str(text_encoder)), random_weights=True, seed=settings.seed
        )
        torch.manual_seed(settings.seed)
        module = GroundingPretraining(model).to(device)
        begun_with = begin_with(model, settings.start, kind="a mini Grounding DINO")
        history = pretrain(
            title,
            module,
            settings,
            steps=len(training) // settings.batch_size,
            batches=lambda epoch: grounding_batches(
                training, model.tokenizer, settings.batch_size, np.random.default_rng([settings.seed, epoch])
            ),
            losses=lambda batch: module.losses(batch.to(device)),
            validate=lambda: validate(module, validation, settings.batch_size),
            work=paths.work / "pretrain-grounding-dino" / content_key(state_key(settings), code_digest(__name__))[:32],
        )
    return write_mini(output, model, settings, history, begun_with=begun_with)
