"""Stage `masks`: SAM's automatic masks of both dates of every pair, into masks.h5 (section 3.3.1)."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from pydantic import Field

from pipeline.config import Section
from pipeline.execution.settings import EngineSettings
from pipeline.vision.sam.settings import GeneratorSettings, Precision, SamSettings
from stages import paths


class MasksSettings(Section):
    """SAM's automatic masks, and whether its image embeddings are kept for the stages after it."""

    sam: SamSettings = Field(default_factory=SamSettings)
    generator: GeneratorSettings = Field(default_factory=GeneratorSettings)
    precision: Precision = Field(
        "fp32", description="fp32, or bf16 in encoder and decoder: faster on GPUs, masks differ slightly"
    )
    compile: bool = Field(False, description="compile encoder and decoder (torch.compile); pays in long runs on GPUs")
    store_embeddings: bool = Field(
        False,
        description="keep SAM's image embeddings, so that `regions` and `semantics` need not encode images again; "
        "the bytes are told before the run (mini 32 KiB an image, published sizes 2 MiB)",
    )


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
    from pipeline.checkpoints import weights_sha256
    from pipeline.config import settings_hash
    from pipeline.datasets.records import read_prepared
    from pipeline.files import content_key

    data = read_prepared(prepared)
    data.require_images()
    data.require_pairs()
    weights_sha = weights_sha256(Path(settings.sam.weights), whose="SAM", setting="masks.sam.weights")

    from pipeline.cache.schema import Provenance
    from pipeline.execution.build import build_cache
    from pipeline.execution.compute import Item
    from pipeline.progress import say
    from pipeline.vision.sam.cache import SCHEMA
    from pipeline.vision.sam.model import embedding_shape
    from pipeline.vision.sam.worker import MaskImage, MaskWorker

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
