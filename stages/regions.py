"""Stage `regions`: RoIAlign features and descriptors of every mask, into regions.h5 (equations 7–8)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Expectation, Provenance
from pipeline.datasets.records import read_prepared
from pipeline.execution.build import build_cache
from pipeline.execution.compute import WorkItem
from pipeline.execution.settings import EngineSettings
from pipeline.files import content_key, sha256_file
from pipeline.paths import Paths
from pipeline.progress import say
from pipeline.vision.regions.cache import SCHEMA
from pipeline.vision.regions.descriptor import build_head
from pipeline.vision.regions.worker import (
    RegionImage,
    RegionWorker,
    mask_digests,
    read_mask_source,
    require_sam_weights,
    size_report,
)
from pipeline.vision.sam.cache import SCHEMA as MASKS
from stages.code import stage_digest
from stages.settings import RegionsSettings


def run(settings: RegionsSettings, paths: Paths, *, engine: EngineSettings) -> Path:
    """Compute the features of every mask of a prepared data set.

    Args:
        settings: RoIAlign, head, and what is stored.
        paths: The prepared data set, and `masks`: embeddings in it are used, else images are encoded again. Writes
            `regions`, see `pipeline.vision.regions.cache.SCHEMA`. Unit 2i+t is pair i at date t.
        engine: How to run.

    Returns:
        `paths.regions`.

    Raises:
        CacheError: The masks are missing, damaged, or of another data set.
        CheckpointError: Weights are missing or damaged, or SAM's are not those of the masks.
        DataError: An image changed since `prepare`, cannot be read, or has no entry among the masks.
    """
    data = read_prepared(paths.prepared)
    expectation = Expectation(upstream={"pairs.jsonl": data.card.pairs_sha256}, repair="sagecc masks")
    with Cache.open(paths.masks, MASKS, expect=expectation) as cache:
        source, masks_sha256 = read_mask_source(cache), cache.sha256
        digests = list(mask_digests(cache, outlines=settings.roi.mask_pooling))
    if not source.has_embeddings:
        require_sam_weights(source)
    weights = {"sam": source.weights_sha256}
    if settings.head.kind == "conv" and settings.head.weights is not None:
        # Refused before any image is read.
        build_head(source.channels, settings.head)
        weights["head"] = sha256_file(Path(settings.head.weights))

    encoded = [source.sam.model_dump(mode="json", exclude={"weights"}), source.precision, source.has_embeddings]
    items = []
    for image in data.images():
        key = content_key(image.sha256, digests[image.unit], encoded)
        payload = RegionImage(image.path, image.sha256, image.unit)
        items.append(WorkItem(key=key, label=image.label, payload=payload))
    provenance = Provenance.of(
        SCHEMA,
        settings,
        code=stage_digest("regions"),
        weights=weights,
        upstream={"pairs.jsonl": data.card.pairs_sha256, "masks.h5": masks_sha256},
    )
    say(f"regions: {size_report(settings, source.channels, source.mask_count, len(items))}")
    return build_cache(
        paths.regions,
        SCHEMA,
        provenance,
        [pair.id for pair in data.pairs],
        items,
        partial(RegionWorker, settings, source, settings.batch_size, engine.device),
        work=paths.work,
        engine=engine,
    )
