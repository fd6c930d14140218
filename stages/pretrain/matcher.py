"""`sagecc pretrain matcher`: SuperGlue or LightGlue, self-supervised on regions of one's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pipeline.config import settings_hash
from pipeline.errors import SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.files import content_key, sha256_file
from pipeline.runtime import deterministic, resolve_device
from pipeline.training.pretraining import begin_with, pretrain, state_key, write_mini
from pipeline.vision.matching.build import learned_matcher
from pipeline.vision.matching.examples import Describer, Examples, PreparedImages, date_examples, view_examples
from pipeline.vision.matching.pretraining import batches, losses, validate
from pipeline.vision.matching.settings import AssignmentSettings
from pipeline.vision.regions.descriptor import build_head
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.model import build_sam
from stages import masks, paths, prepare
from stages.settings import PrepareSettings, PretrainMatcherSettings

_VIEWS_PER_PASS = 8
_SPLITS: tuple[Literal["train", "val"], ...] = ("train", "val")


def run(
    settings: PretrainMatcherSettings,
    output: Path,
    *,
    engine: EngineSettings,
    prepared: Path | None = None,
    masks: Path | None = None,
) -> Path:
    """Train a matcher; an interrupted training goes on where its last epoch ended.

    Every image is seen alone: two views of it are made by homographies and changes of appearance, and its regions are
    dropped, split, merged and replaced, so that all correspondences are known without anybody having marked one. Of a
    generated world, whose truth is known, pairs of dates are examples too (`dates`).

    Args:
        settings: The matcher, its examples, the training.
        output: Weights to write (.safetensors, float16); the validation curve goes beside it as .json.
        engine: Device, and workers that generate the world and its masks.
        prepared: Folder that `sagecc prepare` wrote of the images to train on; None: a synthetic world.
        masks: Cache that `sagecc masks` wrote for it; SAM is the one that it was made with.

    Returns:
        `output`.

    Raises:
        CacheError: The masks are missing, damaged, or of another data set.
        CheckpointError: Weights are missing or damaged, or SAM's are not those of the masks.
        DataError: No training image holds a region, one has changed since `prepare`, or there are too few.
        SettingsError: `nearest` has nothing to learn; or of `prepared` and `masks` only one is given.
    """
    title = "pretrain matcher"
    if (prepared is None) != (masks is None):
        raise SettingsError("images and their masks go together", fix="give --prepared and --masks, or neither")
    # Refused before any image is read.
    learned_matcher(settings, settings.superglue.width)
    generated = prepared is None or masks is None
    if prepared is None or masks is None:
        prepared, masks = _world(settings, engine)
    device = resolve_device(engine.device)
    with PreparedImages.open(prepared, masks) as images:
        describer = _describer(settings, images, device)
        made_of = ("examples", "regions", "length", "seed")
        key = content_key(sha256_file(masks), settings.model_dump(mode="json", include=set(made_of)))
        folder = paths.WORK / "pretrain-matcher" / "examples" / key[:32]
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
            for split in (_SPLITS if generated and settings.dates else ())
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
            work=paths.WORK / "pretrain-matcher" / content_key(key, state_key(settings))[:32],
        )
    return write_mini(output, matcher, settings, history, begun_with=begun_with)


def _world(settings: PretrainMatcherSettings, engine: EngineSettings) -> tuple[Path, Path]:
    """Generate the synthetic world and its masks, unless they are there; return the prepared folder and masks.h5."""
    folder = paths.WORK / "pretrain-matcher" / "worlds" / settings_hash(settings.world)[:32]
    prepared = folder / "prepared"
    if not prepared.is_dir():
        prepare.run(PrepareSettings(dataset="synthetic", world=settings.world), prepared, engine=engine)
    return prepared, masks.run(settings.masks, prepared, folder / "masks.h5", engine=engine)


def _describer(settings: PretrainMatcherSettings, images: PreparedImages, device: torch.device) -> Describer:
    """Build what the stages masks and regions make descriptors with."""
    sam = images.sam
    encoder = ImageEncoder(build_sam(sam.sam), sam.sam, device, precision=sam.precision)
    head = build_head(sam.channels, settings.regions.head).to(device)
    return Describer(encoder, head, settings.regions.roi, _VIEWS_PER_PASS)
