"""Stage `matches`: which region of the earlier image is which of the later one, into matches.h5 (equations 9–10)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Provenance
from pipeline.errors import DataError
from pipeline.execution.build import build_cache
from pipeline.execution.compute import WorkItem
from pipeline.execution.settings import EngineSettings
from pipeline.files import content_key, sha256_bytes, sha256_file
from pipeline.paths import Paths
from pipeline.vision.matching.build import require_matcher_weights
from pipeline.vision.matching.cache import SCHEMA
from pipeline.vision.matching.worker import DATES, MatchWorker, PairToMatch
from pipeline.vision.regions.cache import SCHEMA as REGIONS
from pipeline.vision.regions.cache import read_regions
from stages.code import stage_digest
from stages.settings import MatchesSettings


def run(settings: MatchesSettings, paths: Paths, *, engine: EngineSettings) -> Path:
    """Match the regions of every pair.

    Args:
        settings: The matcher, τ, the size of batches.
        paths: The cache `regions`; writes `matches`, see `pipeline.vision.matching.cache.SCHEMA`. One unit per pair.
        engine: How to run.

    Returns:
        `paths.matches`.

    Raises:
        CacheError: The regions are missing, damaged or of another version.
        CheckpointError: The matcher's weights are missing, damaged, or of another layout.
        DataError: An image has more regions than `length`; or pairs lack regions, with `on_bad_item: fatal`.
        SettingsError: The layout does not fit the descriptors.
    """
    with Cache.open(paths.regions, REGIONS) as cache:
        (width,) = cache.schema.field("descriptors").row_shape
        items = _items(cache, settings.length)
        ids, regions_sha256 = cache.ids, cache.sha256
    provenance = Provenance.of(
        SCHEMA,
        settings,
        code=stage_digest("matches"),
        weights=weights_of(settings),
        upstream={"regions.h5": regions_sha256},
    )
    return build_cache(
        paths.matches,
        SCHEMA,
        provenance,
        ids,
        items,
        partial(
            MatchWorker,
            settings,
            settings.assignment,
            width,
            settings.length,
            settings.batch_size,
            engine.device,
        ),
        work=paths.work,
        engine=engine,
        group=256,
    )


def weights_of(settings: MatchesSettings) -> dict[str, str]:
    """Return the SHA-256 of the matcher's weights, by name; nearest has none.

    Raises:
        CheckpointError: The weights are missing.
    """
    return {} if settings.method == "nearest" else {"matcher": sha256_file(require_matcher_weights(settings))}


def _items(cache: Cache, length: int) -> list[WorkItem]:
    """Return the work items of the pairs, each with a key of the regions that the matcher reads.

    Raises:
        DataError: An image has more regions than `length`.
    """
    counts = np.diff(cache.offsets("regions"))
    if counts.size and counts.max() > length:
        unit = int(counts.argmax())
        raise DataError(
            f"{cache.ids[unit // 2]} {DATES[unit % 2]} has {counts[unit]} regions, more than matches.length, {length}",
            where=cache.path,
            fix=f"set matches.length to {counts.max()} or more",
        )
    # Workers of a Dask cluster may have another working directory.
    path = cache.path.resolve()
    skipped = set(cache.missing.tolist())
    items = []
    for number, name in enumerate(cache.ids):
        missing = tuple(date for unit, date in enumerate(DATES, 2 * number) if unit in skipped)
        digests = []
        for unit in (2 * number, 2 * number + 1):
            regions = read_regions(cache, unit)
            arrays = (regions.descriptors, regions.boxes, regions.centroids, regions.scores)
            digests.append([*regions.size, *(sha256_bytes(array.tobytes()) for array in arrays)])
        items.append(WorkItem(content_key(digests, missing), name, PairToMatch(path, number, missing)))
    return items
