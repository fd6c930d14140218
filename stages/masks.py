"""Stage `masks`: SAM's automatic masks of both dates of every pair, into masks.h5 (section 3.3.1)."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from pipeline.cache.schema import Provenance
from pipeline.checkpoints import weights_sha256
from pipeline.datasets.records import read_prepared
from pipeline.execution.build import build_cache
from pipeline.execution.compute import WorkItem
from pipeline.execution.settings import EngineSettings
from pipeline.files import content_key
from pipeline.paths import Paths
from pipeline.progress import say
from pipeline.vision.sam.cache import SCHEMA
from pipeline.vision.sam.model import embedding_shape
from pipeline.vision.sam.worker import MaskImage, MaskWorker
from stages.code import stage_digest
from stages.settings import MasksSettings


def run(settings: MasksSettings, paths: Paths, *, engine: EngineSettings) -> Path:
    """Compute the masks of every image of a prepared data set.

    Args:
        settings: Model, points, thresholds, and whether embeddings are stored.
        paths: The prepared data set; writes `masks`, see `pipeline.vision.sam.cache.SCHEMA`. Unit 2i+t is pair i at
            date t. An image in which nothing passes the thresholds has no rows.
        engine: How to run.

    Returns:
        `paths.masks`.

    Raises:
        CheckpointError: The weights are missing, damaged, or another variant's.
        DataError: The data set has no pairs; an image changed since `prepare`, or cannot be read.
        SettingsError: The encoder's size does not fit the variant.
    """
    data = read_prepared(paths.prepared)
    data.require_images()
    data.require_pairs()
    weights_sha = weights_sha256(Path(settings.sam.weights), whose="SAM", setting="models.sam.weights")

    items = [
        WorkItem(key=content_key(image.sha256), label=image.label, payload=MaskImage(image.path, image.sha256))
        for image in data.images()
    ]
    bytes_per_image = 2 * math.prod(embedding_shape(settings.sam))
    if settings.store_embeddings:
        say(
            f"masks: embeddings take {bytes_per_image:,} bytes an image, {bytes_per_image * len(items):,} for "
            f"{len(items):,} images"
        )
    provenance = Provenance.of(
        SCHEMA,
        settings,
        code=stage_digest("masks"),
        weights={"sam": weights_sha},
        upstream={"pairs.jsonl": data.card.pairs_sha256},
    )
    return build_cache(
        paths.masks,
        SCHEMA,
        provenance,
        [pair.id for pair in data.pairs],
        items,
        partial(
            MaskWorker,
            settings.sam,
            settings.generator,
            engine.device,
            precision=settings.precision,
            compiled=settings.compile,
            store_embeddings=settings.store_embeddings,
        ),
        work=paths.work,
        engine=engine,
    )
