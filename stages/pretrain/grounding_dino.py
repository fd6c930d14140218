"""`sagecc pretrain grounding-dino`: the mini Grounding DINO, from scratch, on a synthetic world of its own."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from pipeline.datasets.world.settings import WorldSettings
from pipeline.execution.settings import EngineSettings
from pipeline.training.pretraining import PretrainSchedule
from stages import paths


class PretrainGroundingSettings(PretrainSchedule):
    """Training of the mini Grounding DINO that ships under artifacts/pretrained."""

    epochs: int = Field(8, ge=1, description="passes over the training images, a validation after each")
    batch: int = Field(8, ge=1, description="images per step")
    learning_rate: float = Field(1e-3, gt=0, description="peak of the one-cycle schedule of AdamW")
    world: WorldSettings = Field(
        # Another seed than the data set's, so that no scene of the default profile has been seen.
        default_factory=lambda: WorldSettings(train=1500, val=60, test=0, seed=1_000_003),
        description="the world it is trained on; keep its seed different from prepare.world.seed",
    )


def run(settings: PretrainGroundingSettings, output: Path, *, engine: EngineSettings) -> Path:
    """Train the mini Grounding DINO; an interrupted training goes on where its last epoch ended.

    Args:
        settings: The world and the training.
        output: Weights to write (.safetensors, float16). The validation curve goes beside it as .json, vocabulary and
            configuration of its BERT into the folder of the same name without suffix.
        engine: Device, and workers that generate the world.

    Returns:
        `output`.
    """
    import numpy as np
    import torch

    from pipeline.runtime import deterministic, resolve_device
    from pipeline.training.pretraining import begin_with, pretrain, state_key, training_world, write_mini
    from pipeline.vision.grounding.model import build_grounding_dino
    from pipeline.vision.grounding.pretraining import GroundingPretraining, validate
    from pipeline.vision.grounding.prompts import write_text_encoder
    from pipeline.vision.grounding.scenes import grounding_batches, read_scenes
    from pipeline.vision.grounding.settings import GroundingSettings

    title = "pretrain grounding-dino"
    world = training_world(settings.world, paths.WORK, engine=engine, title=title)
    device = resolve_device(engine.device)
    text_encoder = write_text_encoder(output.with_suffix(""))
    training, validation = read_scenes(world, "train"), read_scenes(world, "val").to(device)
    with deterministic(device):
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
            steps=len(training) // settings.batch,
            batches=lambda epoch: grounding_batches(
                training, model.tokenizer, settings.batch, np.random.default_rng([settings.seed, epoch])
            ),
            losses=lambda batch: module.losses(batch.to(device)),
            validate=lambda: validate(module, validation, settings.batch),
            work=paths.WORK / "pretrain-grounding-dino" / state_key(settings),
        )
    return write_mini(output, model, settings, history, begun_with=begun_with)
