"""Stage `scenes`: backbone features of both dates of every pair, once, into scenes.h5 (section 3.2, equation 1)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pydantic import Field

from pipeline.execution.settings import EngineSettings
from pipeline.vision.settings import BackboneSettings
from stages import paths


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
    from pipeline.datasets.images import image_size

    from pipeline.checkpoints import missing_advice
    from pipeline.datasets.records import read_prepared
    from pipeline.errors import CheckpointError
    from pipeline.files import sha256_file

    data = read_prepared(prepared)
    weights = Path(settings.weights)
    if not weights.is_file():
        raise CheckpointError("the backbone's weights are not there", where=weights, fix=missing_advice(weights))
    weights_sha = sha256_file(weights)
    size = image_size(data.root / data.pairs[0].before)

    from pipeline.cache import Provenance
    from pipeline.execution import Item, build_cache
    from pipeline.files import content_key
    from pipeline.vision.scenes import SceneImage, SceneWorker, feature_shape, scene_schema

    schema = scene_schema(feature_shape(settings, size))
    items = []
    for pair in data.pairs:
        for date in ("before", "after"):
            path, sha256 = data.root / getattr(pair, date), pair.sha256[date]
            items.append(Item(key=sha256, label=f"{pair.id} {date}", payload=SceneImage(path, sha256, size)))
    raise NotImplementedError(partial, content_key, build_cache, Provenance, SceneWorker, schema, paths)
