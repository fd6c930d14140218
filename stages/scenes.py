"""Stage `scenes`: backbone features of both dates of every pair, once, into scenes.h5 (section 3.2, equation 1)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.cache.schema import Provenance
from pipeline.checkpoints import weights_sha256
from pipeline.config import settings_hash
from pipeline.datasets.images import image_size
from pipeline.datasets.records import read_prepared
from pipeline.execution.build import build_cache
from pipeline.execution.compute import Item
from pipeline.execution.settings import EngineSettings
from pipeline.files import content_key
from pipeline.vision.scenes.worker import SCHEMA, SceneImage, SceneWorker
from stages import paths
from stages.settings import ScenesSettings


def run(settings: ScenesSettings, prepared: Path, output: Path, *, engine: EngineSettings) -> Path:
    """Compute backbone features of every image of a prepared data set.

    Args:
        settings: Backbone and normalisation.
        prepared: Folder that `sagecc prepare` wrote.
        output: The cache to write: field `features` (2·pairs, C, h, w) float16, row 2i+t for pair i, date t.
        engine: How to run.

    Returns:
        `output`.

    Raises:
        CheckpointError: The weights are missing or belong to another model.
        DataError: An image changed since `prepare`, cannot be read, or has another size than the rest.
    """
    data = read_prepared(prepared)
    data.require_images()
    data.require_pairs()
    weights_sha = weights_sha256(Path(settings.weights), whose="the backbone", setting="scenes.weights")
    size = image_size(data.root / data.pairs[0].before)

    items = [
        Item(
            key=content_key(image.sha256, list(size)),
            label=image.label,
            payload=SceneImage(image.path, image.sha256, size),
        )
        for image in data.images()
    ]
    provenance = Provenance(
        stage="scenes",
        schema_version=SCHEMA.version,
        settings=settings.model_dump(mode="json"),
        settings_hash=settings_hash(settings),
        weights={"backbone": weights_sha},
        upstream={"pairs.jsonl": data.card.pairs_sha256},
    )
    return build_cache(
        output,
        SCHEMA,
        provenance,
        [pair.id for pair in data.pairs],
        items,
        partial(SceneWorker, settings, settings.batch_size, engine.device),
        work=paths.WORK,
        engine=engine,
        title="scenes",
    )
