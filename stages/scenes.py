"""Stage `scenes`: backbone features of both dates of every pair, once, into scenes.h5 (section 3.2, equation 1)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.cache.schema import Provenance
from pipeline.checkpoints import weights_sha256
from pipeline.datasets.images import image_size
from pipeline.datasets.records import read_prepared
from pipeline.execution.build import build_cache
from pipeline.execution.compute import WorkItem
from pipeline.execution.settings import EngineSettings
from pipeline.files import content_key
from pipeline.paths import Paths
from pipeline.vision.scenes.registry import BACKBONES
from pipeline.vision.scenes.worker import SCHEMA, SceneImage, SceneWorker
from stages.code import stage_digest
from stages.settings import ScenesSettings


def run(settings: ScenesSettings, paths: Paths, *, engine: EngineSettings) -> Path:
    """Compute backbone features of every image of a prepared data set.

    Args:
        settings: Backbone and normalisation.
        paths: The prepared data set; writes `scenes`: field `features` (2·pairs, C, h, w) float16, row 2i+t for pair i
            at date t.
        engine: How to run.

    Returns:
        `paths.scenes`.

    Raises:
        CheckpointError: The weights are missing or belong to another model.
        DataError: An image changed since `prepare`, cannot be read, or has another size than the rest.
    """
    data = read_prepared(paths.prepared)
    data.require_images()
    data.require_pairs()
    weights_sha = weights_sha256(Path(settings.weights), whose="the backbone", setting="models.backbone.weights")
    size = image_size(data.root / data.pairs[0].before)

    items = [
        WorkItem(
            key=content_key(image.sha256, list(size)),
            label=image.label,
            payload=SceneImage(image.path, image.sha256, size),
        )
        for image in data.images()
    ]
    provenance = Provenance.of(
        SCHEMA,
        settings,
        code=stage_digest("scenes", BACKBONES[settings.backbone]),
        weights={"backbone": weights_sha},
        upstream={"pairs.jsonl": data.card.pairs_sha256},
    )
    return build_cache(
        paths.scenes,
        SCHEMA,
        provenance,
        [pair.id for pair in data.pairs],
        items,
        partial(SceneWorker, settings, settings.batch_size, engine.device),
        work=paths.work,
        engine=engine,
    )
