"""Stage `masks`: SAM's automatic masks of both dates of every pair, into masks.h5 (section 3.3.1)."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from pipeline.cache.schema import Provenance
from pipeline.checkpoints import weights_sha256
from pipeline.config import settings_hash
from pipeline.datasets.records import read_prepared
from pipeline.execution.build import build_cache
from pipeline.execution.compute import Item
from pipeline.execution.settings import EngineSettings
from pipeline.files import content_key
from pipeline.progress import say
from pipeline.vision.sam.cache import SCHEMA
from pipeline.vision.sam.model import embedding_shape
from pipeline.vision.sam.worker import MaskImage, MaskWorker
from stages import paths
from stages.settings import MasksSettings


def run(
    settings: MasksSettings, prepared: Path, output: Path, *, engine: EngineSettings, work: Path = paths.WORK
) -> Path:
    """Find the masks of every image of a prepared data set.

    Args:
        settings: Model, points, thresholds, what is kept.
        prepared: Folder that `sagecc prepare` wrote.
        output: The cache to write; see `pipeline.vision.sam.cache.SCHEMA`. Unit 2i+t is pair i at date t. An image in
            which nothing passes the thresholds has no rows.
        engine: How to run.
        work: Root of the work folders.

    Returns:
        `output`.

    Raises:
        CheckpointError: The weights are missing, damaged, or another variant's.
        DataError: The data set has no pairs; an image changed since `prepare`, or cannot be read.
        SettingsError: The encoder's size does not fit the variant.
    """
    data = read_prepared(prepared)
    data.require_images()
    data.require_pairs()
    weights_sha = weights_sha256(Path(settings.sam.weights), whose="SAM", setting="masks.sam.weights")

    items = [
        Item(key=content_key(image.sha256), label=image.label, payload=MaskImage(image.path, image.sha256))
        for image in data.images()
    ]
    each = 2 * math.prod(embedding_shape(settings.sam))
    if settings.store_embeddings:
        say(f"masks: embeddings take {each:,} bytes an image, {each * len(items):,} for {len(items):,} images")
    provenance = Provenance(
        stage="masks",
        schema_version=SCHEMA.version,
        settings=settings.model_dump(mode="json"),
        settings_hash=settings_hash(settings),
        weights={"sam": weights_sha},
        upstream={"pairs.jsonl": data.card.pairs_sha256},
    )
    return build_cache(
        output,
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
        work=work,
        engine=engine,
        title="masks",
    )
