"""`sagecc pretrain matcher`: SuperGlue or LightGlue, self-supervised on regions of one's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pipeline.code import code_digest
from pipeline.config import settings_hash
from pipeline.execution.settings import EngineSettings
from pipeline.files import content_key, sha256_file
from pipeline.paths import Paths
from pipeline.runtime import deterministic, resolve_device
from pipeline.training.pretraining import begin_with, pretrain, state_key, write_mini
from pipeline.vision.matching.build import learned_matcher
from pipeline.vision.matching.examples import Describer, Examples, PreparedImages, date_examples, view_examples
from pipeline.vision.matching.pretraining import batches, losses, validate
from pipeline.vision.matching.settings import AssignmentSettings
from pipeline.vision.regions.descriptor import build_head
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.model import build_sam
from stages import masks, prepare
from stages.code import stage_digest
from stages.settings import PrepareSettings, PretrainMatcherSettings

_VIEWS_PER_PASS = 8
_SPLITS: tuple[Literal["train", "val"], ...] = ("train", "val")


def run(
    settings: PretrainMatcherSettings,
    paths: Paths,
    *,
    engine: EngineSettings,
    output: Path | None = None,
    own_images: bool = False,
) -> Path:
    """Train a matcher; an interrupted training goes on where its last epoch ended.

    Every image is seen alone: two views of it are made by homographies and changes of appearance, and its regions are
    dropped, split, merged and replaced, so that all correspondences are known without anybody having marked one. Of a
    generated world, whose truth is known, pairs of dates are examples too (`dates`).

    Args:
        settings: The matcher, its examples, the training.
        paths: With `own_images`, the prepared data set and `masks`. Writes the synthetic world, examples and the
            training state into `work`.
        engine: Device, and workers that generate the world and its masks.
        output: Weights to write (.safetensors, float16); None: matcher-mini.safetensors in `paths.pretrained`. The
            validation curve goes beside it as .json.
        own_images: Train on the images of the prepared data set and the SAM of its masks instead of a synthetic world.

    Returns:
        The weights.

    Raises:
        CacheError: The masks are missing, damaged, or of another data set.
        CheckpointError: Weights are missing or damaged, or SAM's are not those of the masks.
        DataError: No training image holds a region, one has changed since `prepare`, or there are too few.
        SettingsError: `nearest` has nothing to learn.
    """
    title = "pretrain matcher"
    output = output or paths.pretrained / "matcher-mini.safetensors"
    code = code_digest(__name__)
    # Refused before any image is read.
    learned_matcher(settings, settings.superglue.width)
    source = paths if own_images else _world(settings, paths, engine)
    device = resolve_device(engine.device)
    with PreparedImages.open(source.prepared, source.masks) as images:
        describer = _describer(settings, images, device)
        example_settings = settings.model_dump(mode="json", include={"examples", "regions", "length", "seed"})
        key = content_key(sha256_file(source.masks), example_settings, code)
        folder = paths.work / "pretrain-matcher" / "examples" / key[:32]
        views = {
            split: view_examples(
                images,
                images.units(split),
                describer,
                settings.examples,
                settings.length,
                seed=settings.seed,
                folder=folder / split,
                title=f"{title}: {split} examples",
            )
            for split in _SPLITS
        }
        dates = {
            split: date_examples(
                images,
                split,
                describer,
                settings.length,
                folder=folder / "dates" / split,
                title=f"{title}: {split} pairs",
            )
            for split in (_SPLITS if settings.dates and not own_images else ())
        }
    training = Examples.cat([examples["train"] for examples in (views, dates) if examples])
    with deterministic(device):
        matcher = learned_matcher(settings, describer.head.width, seed=settings.seed).to(device)
        begun_with = begin_with(matcher, settings.start, kind=f"a {settings.method} of these settings")
        held_out = {name: part["val"].to(device) for name, part in (("", views), ("dates_", dates)) if part}
        history = pretrain(
            title,
            matcher,
            settings,
            steps=len(training) // settings.batch_size,
            batches=lambda epoch: batches(
                training, settings.batch_size, settings.augment, np.random.default_rng([settings.seed, epoch])
            ),
            losses=lambda part: losses(matcher, part.to(device)),
            validate=lambda: {
                f"{prefix}{name}": value
                for prefix, examples in held_out.items()
                for name, value in validate(matcher, examples, settings.batch_size, AssignmentSettings()).items()
            },
            work=paths.work / "pretrain-matcher" / content_key(key, state_key(settings))[:32],
        )
    return write_mini(output, matcher, settings, history, begun_with=begun_with)


def _world(settings: PretrainMatcherSettings, paths: Paths, engine: EngineSettings) -> Paths:
    """Generate the synthetic world and its masks, unless they exist; return where they are."""
    key = content_key(settings_hash(settings.world), stage_digest("prepare"))
    folder = paths.work / "pretrain-matcher" / "worlds" / key[:32]
    world = paths.at(prepared=folder / "prepared", masks=folder / "masks.h5")
    if not world.prepared.is_dir():
        prepare.run(PrepareSettings(dataset="synthetic", world=settings.world), world, engine=engine)
    masks.run(settings.masks, world, engine=engine)
    return world


def _describer(settings: PretrainMatcherSettings, images: PreparedImages, device: torch.device) -> Describer:
    """Build what the stages masks and regions make descriptors with."""
    sam = images.sam
    encoder = ImageEncoder(build_sam(sam.sam), sam.sam, device, precision=sam.precision)
    head = build_head(sam.channels, settings.regions.head).to(device)
    return Describer(encoder, head, settings.regions.roi, _VIEWS_PER_PASS)
