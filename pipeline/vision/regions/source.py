"""What the regions are made from: masks.h5, and the SAM that it was made with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import ValidationError

from pipeline.cache import Cache
from pipeline.checkpoints import missing_advice
from pipeline.errors import CacheError, CheckpointError
from pipeline.execution.progress import say
from pipeline.files import content_key, sha256_bytes, sha256_file
from pipeline.vision.sam.cache import SCHEMA
from pipeline.vision.sam.model import embedding_shape, encoder_size
from pipeline.vision.sam.settings import Precision, SamSettings

_REPAIR: Final = "run `sagecc masks`"
_GEOMETRY: Final = ("boxes", "centroids", "areas", "predicted_iou")
_OUTLINES: Final = ("runs", "counts")
_BLOCK: Final = 256


@dataclass(frozen=True)
class MaskSource:
    """The masks, and how their images were encoded.

    Attributes:
        path: masks.h5, absolute: workers of a Dask cluster may have another working directory.
        sam: The model that the masks were made with.
        precision: In which its image encoder computed.
        weights_sha256: SHA-256 of its weights.
        stored: Whether the file holds the images' embeddings.
        masks: Number of masks of all images.
    """

    path: Path
    sam: SamSettings
    precision: Precision
    weights_sha256: str
    stored: bool
    masks: int

    @property
    def channels(self) -> int:
        """C, the width of the embeddings."""
        return embedding_shape(self.sam)[0]

    @property
    def spatial(self) -> int:
        """Cells a side of the embeddings."""
        return embedding_shape(self.sam)[1]


def read_source(cache: Cache) -> MaskSource:
    """Read from masks.h5 which SAM it was made with, so that nobody has to state it twice.

    Raises:
        CacheError: The file does not say, or holds embeddings of another size than its SAM gives.
    """
    recorded = cache.provenance.settings
    try:
        source = MaskSource(
            path=cache.path.resolve(),
            sam=SamSettings.model_validate(recorded["sam"]),
            precision=recorded["precision"],
            weights_sha256=cache.provenance.weights["sam"],
            stored=0 not in cache.schema.field("embedding").row_shape,
            masks=int(cache.offsets("masks")[-1]),
        )
    except (KeyError, ValidationError) as error:
        raise CacheError("the masks do not say which SAM they were made with", where=cache.path, fix=_REPAIR) from error
    shape = cache.schema.field("embedding").row_shape
    expected = embedding_shape(source.sam)
    if source.stored and shape != expected:
        raise CacheError(
            f"embeddings of {'×'.join(map(str, shape))}, where {source.sam.variant} gives "
            f"{'×'.join(map(str, expected))}",
            where=cache.path,
            fix=_REPAIR,
        )
    return source


def stored_embeddings(masks: Path | None, sam: SamSettings, weights_sha256: str, pairs_sha256: str) -> Path | None:
    """Return masks.h5 if it holds what another SAM, asked in full precision, would make of the same images.

    Where it holds embeddings of another kind, this says why they are of no use.

    Args:
        masks: masks.h5; None, or a file that is not there, holds nothing.
        sam: The other SAM.
        weights_sha256: SHA-256 of its weights.
        pairs_sha256: SHA-256 of the pairs.jsonl of the images.

    Raises:
        CacheError: masks.h5 is damaged.
    """
    if masks is None or not masks.is_file():
        return None
    with Cache.open(masks, SCHEMA) as cache:
        if cache.provenance.upstream.get("pairs.jsonl") != pairs_sha256:
            if 0 not in cache.schema.field("embedding").row_shape:
                say(f"the image embeddings in {masks} are not used, images are encoded again: it is of other pairs")
            return None
        source = read_source(cache)
    if not source.stored:
        return None
    if _architecture(source.sam) != _architecture(sam):
        wanted, found = (f"{one.variant} at {encoder_size(one)} pixels" for one in (sam, source.sam))
        reason = f"they are those of {found}, wanted is {wanted}"
    elif source.weights_sha256 != weights_sha256:
        reason = f"they were made with other weights of SAM than {sam.weights}"
    elif source.precision != "fp32":
        reason = f"they were made in {source.precision}, wanted is fp32"
    else:
        return source.path
    say(f"the image embeddings in {masks} are not used, images are encoded again: {reason}")
    return None


def _architecture(sam: SamSettings) -> SamSettings:
    """Return the settings without their weights, the encoder's size said even where it is the variant's own."""
    return sam.model_copy(update={"weights": "", "encoder_size": encoder_size(sam)})


def require_weights(source: MaskSource) -> None:
    """See that SAM's weights are those that the masks were made with; needed where embeddings are not stored.

    Raises:
        CheckpointError: They are missing or others.
    """
    weights = Path(source.sam.weights)
    if not weights.is_file():
        advice = missing_advice(weights) or "put the file there that the masks were made with"
        raise CheckpointError(
            "SAM's weights, with which the masks were made, are not there",
            where=weights,
            fix=f"{advice}; or run `sagecc masks --set masks.store_embeddings=true` where it is",
        )
    found = sha256_file(weights)
    if found != source.weights_sha256:
        raise CheckpointError(
            f"SAM's weights are not those that the masks were made with ({found[:12]}… instead of "
            f"{source.weights_sha256[:12]}…)",
            where=weights,
            fix=f"{_REPAIR}, or put the earlier file back",
        )


def mask_digests(cache: Cache, *, outlines: bool) -> Iterator[str]:
    """Yield per image a key of everything about its masks that goes into its regions.

    Args:
        cache: masks.h5.
        outlines: Whether the masks' outlines matter, or only boxes, centroids, areas and scores.
    """
    names = (*_GEOMETRY, *_OUTLINES) if outlines else _GEOMETRY
    missing = set(cache.missing.tolist())
    for start in range(0, len(cache), _BLOCK):
        units = range(start, min(start + _BLOCK, len(cache)))
        columns = []
        for name in names:
            rows, lengths = cache.rows(name, units)
            columns.append(np.split(rows, np.cumsum(lengths)[:-1]))
        sizes, _ = cache.rows("size", units)
        for unit, size, *arrays in zip(units, sizes.tolist(), *columns, strict=True):
            yield content_key(size, unit in missing, [sha256_bytes(array.tobytes()) for array in arrays])
