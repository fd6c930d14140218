"""Stage `semantics`: regions and maps by what words name, into semantics.h5 (section 3.3.2, equations 11–12)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.execution.settings import EngineSettings
from pipeline.vision.grounding.semantic_settings import SemanticRegionSettings
from stages import paths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.datasets.records import Prepared
    from pipeline.vision.grounding.worker import SemanticImage


class SemanticsSettings(SemanticRegionSettings):
    """Semantic regions and maps: Grounding DINO's boxes, SAM's masks of them, similarity to the prompts."""

    batch_size: int = Field(8, ge=1, le=1024, description="images per pass; short batches are padded to it")


def run(
    settings: SemanticsSettings, prepared: Path, output: Path, *, engine: EngineSettings, masks: Path | None = None
) -> Path:
    """Find the semantic regions of every image of a prepared data set.

    Args:
        settings: Models, prompts, thresholds.
        prepared: Folder that `sagecc prepare` wrote.
        masks: Cache that `sagecc masks` wrote; if it holds embeddings by the SAM of `settings`, they are used.
            None, or others: images are encoded here.
        output: The cache to write; see `pipeline.vision.grounding.cache.SCHEMA`. Unit 2i+t is pair i at date t.
        engine: How to run.

    Returns:
        `output`.

    Raises:
        CacheError: The masks are damaged.
        CheckpointError: Weights or text encoder are missing, damaged, or another model's.
        DataError: An image changed since `prepare`, cannot be read, or has another size than the rest.
        SettingsError: The prompts are too long or hold words that the text encoder does not know.
    """
    from pipeline.config import settings_hash
    from pipeline.datasets.images import image_size
    from pipeline.datasets.records import read_prepared
    from pipeline.errors import DataError
    from pipeline.files import content_key, sha256_file

    data = read_prepared(prepared)
    if not data.pairs:
        raise DataError("the data set has no pairs", where=prepared, fix="look at audit.json and run `sagecc prepare`")
    weights = _weights(settings)
    if settings.map_size is None:
        size = image_size(data.root / data.pairs[0].before)
    else:
        size = (settings.map_size, settings.map_size)

    from pipeline.cache import Provenance
    from pipeline.execution import Item, build_cache
    from pipeline.vision.grounding.cache import SCHEMA
    from pipeline.vision.grounding.categories import parse_prompts
    from pipeline.vision.grounding.text import category_tokens, load_text_encoder
    from pipeline.vision.grounding.worker import SemanticImage, SemanticWorker

    # Refused before any image is read.
    category_tokens(load_text_encoder(settings.grounding.text_encoder)[0], parse_prompts(settings.grounding.prompts))
    stored = _embeddings(masks, data, settings, weights["sam"])
    items = []
    for number, pair in enumerate(data.pairs):
        for date, name in enumerate(("before", "after")):
            # Workers of a Dask cluster may have another working directory.
            path = (data.root / getattr(pair, name)).resolve()
            image = SemanticImage(path, pair.sha256[name], size, 2 * number + date)
            # An embedding may differ in its last bit from one that was computed in a batch of another size.
            key = content_key(image.sha256, list(size), stored is not None)
            items.append(Item(key=key, label=f"{pair.id} {name}", payload=image))
    bridge = None
    if settings.space == "aligned":
        bridge, weights["alignment"] = _alignment(settings, data, [item.payload for item in items], weights, engine)
    provenance = Provenance(
        stage="semantics",
        schema_version=SCHEMA.version,
        settings=settings.model_dump(mode="json"),
        settings_hash=settings_hash(settings),
        weights=weights,
        upstream={"pairs.jsonl": data.card.pairs_sha256}
        | ({} if stored is None else {"masks.h5": sha256_file(stored)}),
    )
    return build_cache(
        output,
        SCHEMA,
        provenance,
        [pair.id for pair in data.pairs],
        items,
        partial(SemanticWorker, settings, settings.batch_size, engine.device, bridge, stored),
        work=paths.WORK,
        engine=engine,
        title="semantics",
    )


def _embeddings(masks: Path | None, data: Prepared, settings: SemanticsSettings, weights: str) -> Path | None:
    """Return masks.h5 if it holds the embeddings that `settings` ask for, else None."""
    from pipeline.cache import Cache
    from pipeline.vision.regions.source import read_source
    from pipeline.vision.sam.cache import SCHEMA as MASKS

    if masks is None or not masks.is_file():
        return None
    with Cache.open(masks, MASKS) as cache:
        if cache.provenance.upstream.get("pairs.jsonl") != data.card.pairs_sha256:
            return None
        source = read_source(cache)
    same = source.sam.model_copy(update={"weights": settings.sam.weights}) == settings.sam
    usable = source.stored and same and source.precision == "fp32" and source.weights_sha256 == weights
    return source.path if usable else None


def _weights(settings: SemanticsSettings) -> dict[str, str]:
    """Return the SHA-256 of every file of weights by name."""
    from pipeline.checkpoints import missing_advice
    from pipeline.errors import CheckpointError
    from pipeline.files import sha256_file

    files = {"grounding_dino": settings.grounding.weights, "sam": settings.sam.weights}
    if settings.head.kind == "conv" and settings.head.weights is not None:
        files["head"] = settings.head.weights
    for name, file in files.items():
        if not Path(file).is_file():
            fix = missing_advice(Path(file)) or "correct the path, or put the file there"
            raise CheckpointError(f"the weights of {name} are not there", where=file, fix=fix)
    digests = {name: sha256_file(Path(file)) for name, file in files.items()}
    vocabulary = Path(settings.grounding.text_encoder) / "vocab.txt"
    if vocabulary.is_file():
        digests["vocabulary"] = sha256_file(vocabulary)
    return digests


def _alignment(
    settings: SemanticsSettings,
    data: Prepared,
    images: list[SemanticImage],
    weights: dict[str, str],
    engine: EngineSettings,
) -> tuple[NDArray[np.float32], str]:
    """Return the map of the space `aligned`, and the SHA-256 of the file that holds it."""
    from pipeline.config import settings_hash
    from pipeline.files import content_key, sha256_file
    from pipeline.vision.grounding.alignment import alignment

    training = [row for row, pair in enumerate(data.pairs) if pair.split == "train"] or list(range(len(data.pairs)))
    candidates = [images[2 * row + date] for row in training for date in (0, 1)]
    step = max(1, len(candidates) // settings.alignment_images)
    chosen = candidates[::step][: settings.alignment_images]
    key = content_key(settings_hash(settings), weights, [image.sha256 for image in chosen])
    path = paths.WORK / "semantics-alignment" / f"{key}.safetensors"
    bridge = alignment(settings, settings.batch_size, engine.device, chosen, path)
    return bridge, sha256_file(path)
