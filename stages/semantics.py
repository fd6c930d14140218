"""Stage `semantics`: regions and maps by what words name, into semantics.h5 (section 3.3.2, equations 11–12).

They are found by Grounding DINO and SAM, or imported: `semantics.source`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.reader import cache_sha256
from pipeline.cache.schema import Provenance
from pipeline.checkpoints import text_encoder_sha256, weights_sha256
from pipeline.config import settings_hash
from pipeline.datasets.images import image_size, read_unchanged
from pipeline.datasets.records import Prepared, read_prepared
from pipeline.errors import DataError
from pipeline.execution.build import build_cache
from pipeline.execution.compute import MakeWorker, WorkItem
from pipeline.execution.settings import EngineSettings
from pipeline.files import content_key, sha256_file
from pipeline.paths import Paths
from pipeline.progress import say
from pipeline.vision.external.arrays import ArrayWorker, list_hdf5, list_npy
from pipeline.vision.external.tags import TagWorker, list_tags, text_weights
from pipeline.vision.grounding.cache import SCHEMA
from pipeline.vision.grounding.prompts import category_tokens, load_text_encoder
from pipeline.vision.grounding.settings import parse_prompts
from pipeline.vision.grounding.worker import (
    SemanticImage,
    SemanticWorker,
    evenly_spread,
    load_or_fit_alignment,
    readable_images,
)
from pipeline.vision.regions.worker import stored_embeddings
from pipeline.vision.sam.cache import SCHEMA as MASKS
from stages.code import stage_digest
from stages.settings import SemanticsSettings

_IMPORTED = 2048
"""Items per shard of an import: one takes no time worth saving."""


def run(settings: SemanticsSettings, paths: Paths, *, engine: EngineSettings) -> Path:
    """Detect or import the semantic regions of every image of a prepared data set.

    Args:
        settings: Models, prompts, thresholds; or where regions are imported from.
        paths: The prepared data set; and `masks`, if it exists: embeddings in it by the SAM of `settings` are used,
            else images are encoded here. Writes `semantics`, see `pipeline.vision.grounding.cache.SCHEMA`. Unit 2i+t is
            pair i at date t.
        engine: How to run.

    Returns:
        `paths.semantics`.

    Raises:
        CacheError: The masks are damaged.
        CheckpointError: Weights or text encoder are missing, damaged, or another model's.
        DataError: An image changed since `prepare`, cannot be read, or has another size than the rest, or there are no
            images; or what is imported is missing, damaged, or lies outside of its folder.
        SettingsError: The prompts are too long or hold words that the text encoder does not know.
    """
    data = read_prepared(paths.prepared)
    data.require_pairs()
    code = stage_digest("semantics")
    if settings.source.kind == "images":
        work = _detections(settings, data, engine, paths, code)
    else:
        work = _imports(settings, data)
        # No GPU is used, so the local engine need not count its workers by the GPUs.
        engine = engine.model_copy(update={"device": "cpu"})
    provenance = Provenance.of(
        SCHEMA,
        settings,
        code=code,
        weights=work.weights,
        upstream={"pairs.jsonl": data.card.pairs_sha256, **work.upstream},
    )
    return build_cache(
        paths.semantics,
        SCHEMA,
        provenance,
        [pair.id for pair in data.pairs],
        work.items,
        work.make_worker,
        work=paths.work,
        engine=engine,
        group=work.group,
    )


@dataclass(frozen=True)
class _Work:
    """Items to compute, and the inputs of the result.

    Attributes:
        items: One per date of every pair.
        make_worker: Builds the worker that computes them.
        weights: SHA-256 of the weights, by name.
        upstream: SHA-256 of the files that are read beside the pairs, by name.
        group: Items per shard.
    """

    items: list[WorkItem]
    make_worker: MakeWorker
    weights: dict[str, str]
    upstream: dict[str, str] = field(default_factory=dict)
    group: int = 32


def _detections(settings: SemanticsSettings, data: Prepared, engine: EngineSettings, paths: Paths, code: str) -> _Work:
    """Return the items of Grounding DINO and SAM."""
    data.require_images()
    weights = _weights(settings)
    if settings.map_size is None:
        size = _first_size(data, skipping=engine.on_bad_item == "skip")
    else:
        size = (settings.map_size, settings.map_size)

    # Refused before any image is read.
    category_tokens(load_text_encoder(settings.grounding.text_encoder)[0], parse_prompts(settings.grounding.prompts))
    stored = stored_embeddings(paths.masks, settings.sam, weights["sam"], data.card.pairs_sha256)
    items = []
    for image in data.images():
        # An embedding may differ in its last bit from one that was computed in a batch of another size.
        key = content_key(image.sha256, list(size), stored is not None)
        payload = SemanticImage(image.path, image.sha256, size, image.unit)
        items.append(WorkItem(key=key, label=image.label, payload=payload))
    bridge = None
    if settings.space == "aligned":
        images = [item.payload for item in items]
        bridge, weights["alignment"] = _alignment(settings, data, images, weights, engine, paths.work, code)
    make_worker = partial(SemanticWorker, settings, settings.batch_size, engine.device, bridge, stored)
    upstream = {} if stored is None else {"masks.h5": cache_sha256(stored, MASKS)}
    return _Work(items, make_worker, weights, upstream)


def _first_size(data: Prepared, *, skipping: bool) -> tuple[int, int]:
    """Return height and width of the first image, or with `skipping` of the first one that can be read.

    Raises:
        DataError: It cannot be read, or with `skipping`: none can.
    """
    if not skipping:
        return image_size(data.root / data.pairs[0].before)
    for image in data.images():
        try:
            height, width = read_unchanged(image.path, image.sha256).shape[:2]
        except DataError:
            # It is listed among the failures when its turn comes.
            continue
        return height, width
    raise DataError("none of the images can be read", where=data.root, fix="mend them, or run `sagecc prepare` again")


def _imports(settings: SemanticsSettings, data: Prepared) -> _Work:
    """Return the items of regions that others found; the images need not exist."""
    source = settings.source
    root = data.root if source.root is None else Path(source.root)
    if source.kind == "tags":
        tags = list_tags(data.pairs, source, root)
        weights = dict(text_weights(source.text))
        return _Work(tags.items, partial(TagWorker, source.text), weights, tags.upstream, _IMPORTED)
    arrays = (list_npy if source.kind == "npy" else list_hdf5)(data.pairs, source, root)
    return _Work(arrays.items, partial(ArrayWorker, arrays.width), {}, arrays.upstream, _IMPORTED)


def _weights(settings: SemanticsSettings) -> dict[str, str]:
    """Return the SHA-256 of every file of weights, and of what the text encoder is built from, by name."""
    files = {
        "grounding_dino": ("Grounding DINO", settings.grounding.weights, "models.grounding_dino.weights"),
        "sam": ("SAM", settings.sam.weights, "models.sam.weights"),
    }
    if settings.head.kind == "conv" and settings.head.weights is not None:
        files["head"] = ("the descriptor head", settings.head.weights, "models.head.weights")
    digests = {
        name: weights_sha256(Path(file), whose=whose, setting=setting) for name, (whose, file, setting) in files.items()
    }
    # The folder is checked where it is read.
    text_encoder = text_encoder_sha256(Path(settings.grounding.text_encoder))
    return digests | {f"text_encoder/{name}": sha256 for name, sha256 in text_encoder.items()}


def _alignment(
    settings: SemanticsSettings,
    data: Prepared,
    images: list[SemanticImage],
    weights: dict[str, str],
    engine: EngineSettings,
    work: Path,
    code: str,
) -> tuple[NDArray[np.float32], str]:
    """Return the map of the space `aligned`, and the SHA-256 of the file that holds it."""
    training = [row for row, pair in enumerate(data.pairs) if pair.split == "train"]
    if not training:
        say("semantics: no pair is of the training split; the map from descriptors to words is fitted to all splits")
        training = list(range(len(data.pairs)))
    chosen = evenly_spread([images[2 * row + date] for row in training for date in (0, 1)], settings.alignment_images)

    def alignment_path() -> Path:
        key = content_key(settings_hash(settings), weights, [image.sha256 for image in chosen], code)
        return work / "semantics-alignment" / f"{key}.safetensors"

    path = alignment_path()
    if engine.on_bad_item == "skip" and not path.is_file():
        # The map of fewer images has another key, so it is not used any more once they are mended.
        chosen = readable_images(chosen, settings.map_size)
        path = alignment_path()
    bridge = load_or_fit_alignment(settings, settings.batch_size, engine.device, chosen, path)
    return bridge, sha256_file(path)
