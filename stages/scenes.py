"""Stage `scenes`: backbone features of both dates of every pair, once, into scenes.h5 (section 3.2, equation 1)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pydantic import Field

from pipeline.execution.settings import EngineSettings
from pipeline.vision.settings import BackboneSettings


class ScenesSettings(BackboneSettings):
    """The scene backbone, and how its features are computed."""

    batch_size: int = Field(32, ge=1, le=1024, description="images per forward pass; short batches are padded to it")


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
    from pipeline.cache import Provenance
    from pipeline.config import settings_hash
    from pipeline.datasets.records import read_prepared
    from pipeline.execution import Item, build_cache
    from pipeline.files import content_key, sha256_file
    from pipeline.vision.scenes import SceneWorker, feature_shape, scene_schema, weights_file

    data = read_prepared(prepared)
    weights_sha = sha256_file(weights_file(settings))
    shape = feature_shape(settings, data)
    provenance = Provenance.of(
        scene_schema(shape),
        settings=settings,
        weights={"backbone": weights_sha},
        upstream={"pairs.jsonl": data.card.pairs_sha256},
        items=len(data.pairs),
    )
    raise SystemExit(partial, content_key, settings_hash, Item, SceneWorker, build_cache, provenance)
