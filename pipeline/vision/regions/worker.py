"""The worker that fills regions.h5 from masks.h5 and the SAM that made it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from pipeline.cache.reader import Cache
from pipeline.checkpoints import missing_advice, shipped
from pipeline.datasets.images import read_unchanged
from pipeline.errors import CacheError, CheckpointError, DataError
from pipeline.files import content_key, sha256_bytes, sha256_file
from pipeline.progress import say
from pipeline.runtime import resolve_device
from pipeline.vision.adaptive_batch import AdaptiveBatch
from pipeline.vision.regions.descriptor import apply_head, build_head, region_grids
from pipeline.vision.regions.settings import GRID, RegionSettings, Store
from pipeline.vision.sam.cache import SCHEMA, MaskSet, read_masks
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.model import build_sam, embedding_shape, encoder_size
from pipeline.vision.sam.settings import Precision, SamSettings

_REPAIR: Final = "run `sagecc masks`"
_GEOMETRY: Final = ("boxes", "centroids", "areas", "predicted_iou")
_OUTLINES: Final = ("runs", "counts")
_BLOCK: Final = 256


@dataclass(frozen=True)
class MaskSource:
    """A masks.h5 and how its images were encoded.

    Attributes:
        path: masks.h5, absolute: workers of a Dask cluster may have another working directory.
        sam: The model that the masks were made with.
        precision: The precision of its image encoder.
        weights_sha256: SHA-256 of its weights.
        has_embeddings: Whether the file holds the images' embeddings.
        mask_count: Number of masks of all images.
    """

    path: Path
    sam: SamSettings
    precision: Precision
    weights_sha256: str
    has_embeddings: bool
    mask_count: int

    @property
    def channels(self) -> int:
        """C, the width of the embeddings."""
        return embedding_shape(self.sam)[0]

    @property
    def spatial(self) -> int:
        """Height and width of the embeddings, in cells."""
        return embedding_shape(self.sam)[1]


def read_mask_source(cache: Cache) -> MaskSource:
    """Read from the provenance of masks.h5 which SAM made it.

    Raises:
        CacheError: The provenance does not say, or the embeddings are of another size than this SAM gives.
    """
    settings = cache.provenance.settings
    try:
        source = MaskSource(
            path=cache.path.resolve(),
            sam=SamSettings.model_validate(settings["sam"]),
            precision=settings["precision"],
            weights_sha256=cache.provenance.weights["sam"],
            has_embeddings=0 not in cache.schema.field("embedding").row_shape,
            mask_count=int(cache.offsets("masks")[-1]),
        )
    except (KeyError, ValidationError) as error:
        raise CacheError("the masks do not say which SAM they were made with", where=cache.path, fix=_REPAIR) from error
    shape = cache.schema.field("embedding").row_shape
    expected = embedding_shape(source.sam)
    if source.has_embeddings and shape != expected:
        raise CacheError(
            f"embeddings of {'×'.join(map(str, shape))}, where {source.sam.variant} gives "
            f"{'×'.join(map(str, expected))}",
            where=cache.path,
            fix=_REPAIR,
        )
    return source


def stored_embeddings(masks: Path | None, sam: SamSettings, weights_sha256: str, pairs_sha256: str) -> Path | None:
    """Return masks.h5 if it holds the embeddings that another SAM would compute of the same images in full precision.

    If it holds other embeddings, print why they are not used.

    Args:
        masks: masks.h5; None or a missing file: no embeddings.
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
        source = read_mask_source(cache)
    if not source.has_embeddings:
        return None
    if _architecture(source.sam) != _architecture(sam):
        expected, actual = (f"{model.variant} at {encoder_size(model)} pixels" for model in (sam, source.sam))
        reason = f"they are those of {actual}, wanted is {expected}"
    elif source.weights_sha256 != weights_sha256:
        reason = f"they were made with other weights of SAM than {sam.weights}"
    elif source.precision != "fp32":
        reason = f"they were made in {source.precision}, wanted is fp32"
    else:
        return source.path
    say(f"the image embeddings in {masks} are not used, images are encoded again: {reason}")
    return None


def _architecture(sam: SamSettings) -> SamSettings:
    """Return the settings without weights, and with the encoder's size even where it is the variant's default."""
    return sam.model_copy(update={"weights": "", "encoder_size": encoder_size(sam)})


def require_sam_weights(source: MaskSource) -> None:
    """Check that SAM's weights are those that made the masks; needed where embeddings are not stored.

    Raises:
        CheckpointError: They are missing or differ.
    """
    weights = shipped(Path(source.sam.weights))
    if not weights.is_file():
        hint = missing_advice(weights) or "put the file there that the masks were made with"
        raise CheckpointError(
            "SAM's weights, with which the masks were made, are not there",
            where=weights,
            fix=f"{hint}; or run `sagecc masks --set masks.store_embeddings=true` where it is",
        )
    sha256 = sha256_file(weights)
    if sha256 != source.weights_sha256:
        raise CheckpointError(
            f"SAM's weights are not those that the masks were made with ({sha256[:12]}… instead of "
            f"{source.weights_sha256[:12]}…)",
            where=weights,
            fix=f"{_REPAIR}, or put the earlier file back",
        )


def mask_digests(cache: Cache, *, outlines: bool) -> Iterator[str]:
    """Yield per image a content key of the mask data that its regions depend on.

    Args:
        cache: masks.h5.
        outlines: Whether they depend on the masks' pixels, or only on boxes, centroids, areas and scores.
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


LEVIR_CC_PAIRS: Final = 10_077
# Boxes, centroids, areas, scores; each number of the features takes two bytes.
_GEOMETRY_BYTES: Final = 4 * 4 + 2 * 4 + 4 + 4


def bytes_per_region(settings: RegionSettings, channels: int, store: Store) -> int:
    """Return the bytes that one region takes in regions.h5.

    Args:
        settings: The head, which decides the width of descriptors.
        channels: C, the width of the feature map.
        store: What is stored.
    """
    width = channels if settings.head.kind == "mean" else settings.head.width
    grid = channels * GRID * GRID if store == "grids" else 0
    return 2 * (width + grid) + _GEOMETRY_BYTES


def size_report(settings: RegionSettings, channels: int, regions: int, images: int) -> str:
    """Return a line with the size of the features, per pair and for the whole of LEVIR-CC.

    Args:
        settings: What is computed and stored.
        channels: C, the width of the feature map.
        regions: Number of regions of the data set.
        images: Number of its images.
    """
    mean = regions / max(images, 1)
    sizes = []
    for store in ("vectors", "grids"):
        pair = 2 * mean * bytes_per_region(settings, channels, store)
        sizes.append(f"{store} {_with_unit(pair)} a pair, {_with_unit(pair * LEVIR_CC_PAIRS)} for all of LEVIR-CC")
    return f"{regions:,} regions, {mean:.1f} an image; {sizes[0]}; {sizes[1]}; kept: {settings.store}"


def _with_unit(count: float) -> str:
    """Format a number of bytes."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"


@dataclass(frozen=True)
class RegionImage:
    """One image to compute regions of.

    Attributes:
        path: Its file.
        sha256: Hash of the file when `prepare` read it.
        unit: Its unit in masks.h5.
    """

    path: Path
    sha256: str
    unit: int


@dataclass(frozen=True)
class RegionInput:
    """The data from which the regions of one image are computed.

    Attributes:
        masks: Its masks.
        embedding: SAM's embedding (C, h, w) float16, where masks.h5 holds it.
        pixels: RGB (H, W, 3), where it does not.
        bitmaps: The masks (N, H, W), where they weight the bins.
    """

    masks: MaskSet
    embedding: NDArray[np.float16] | None
    pixels: NDArray[np.uint8] | None
    bitmaps: NDArray[np.bool_] | None


class RegionWorker:
    """Worker that computes region features; see `pipeline.execution.compute.Worker`.

    Args:
        settings: RoIAlign, head, what is stored.
        source: The masks; if they hold embeddings, SAM is not loaded.
        batch_size: Images per pass, also of SAM's encoder; halves when a GPU's memory runs out.
        device: Where to compute.
    """

    def __init__(
        self,
        settings: RegionSettings,
        source: MaskSource,
        batch_size: int,
        device: Literal["auto", "cpu", "cuda"],
    ) -> None:
        self.batch_size = batch_size
        self._settings = settings
        self._source = source
        self._device = resolve_device(device)
        self._cache = Cache.open(source.path, MASKS)
        self._head = build_head(source.channels, settings.head).to(self._device)
        self._batch = AdaptiveBatch(
            batch_size, "images per pass", "make the images smaller, or lower masks.generator.max_masks"
        )
        self._encoder: ImageEncoder | None = None
        if not source.has_embeddings:
            sam = build_sam(source.sam)
            self._encoder = ImageEncoder(sam, source.sam, self._device, precision=source.precision)

    def load(self, image: RegionImage) -> RegionInput:
        """Read the masks of one image, and its embedding or its pixels.

        Raises:
            DataError: The image has no entry in masks.h5, cannot be read, or has changed since `prepare`.
        """
        if image.unit in self._cache.missing:
            raise DataError(
                "the masks of this image were skipped", where=image.path, fix="mend the image and run `sagecc masks`"
            )
        masks = read_masks(self._cache, image.unit)
        pixels = embedding = None
        if self._source.has_embeddings:
            embedding = self._cache.row("embedding", image.unit)
        else:
            pixels = read_unchanged(image.path, image.sha256)
        return RegionInput(masks, embedding, pixels, masks.bitmaps() if self._settings.roi.mask_pooling else None)

    @torch.inference_mode()
    def compute(self, images: Sequence[RegionInput]) -> list[dict[str, NDArray[Any]]]:
        """Return the fields of regions.h5 of each image.

        Raises:
            ResourceError: Not even one image fits into the GPU's memory.
        """
        return self._batch.map(images, self._describe)

    def _describe(self, images: Sequence[RegionInput]) -> list[dict[str, NDArray[Any]]]:
        boxes = [torch.from_numpy(image.masks.boxes) for image in images]
        sizes = [image.masks.size for image in images]
        scales = [self._source.spatial / max(size) for size in sizes]
        masks = None
        if self._settings.roi.mask_pooling:
            masks = [torch.from_numpy(image.bitmaps) for image in images]
        grids = region_grids(self._embeddings(images), boxes, scales, sizes, self._settings.roi, masks=masks)
        counts = [len(image.masks) for image in images]
        descriptors = _split(apply_head(self._head, grids), counts)
        stored_grids = _split(grids if self._settings.store == "grids" else grids[:, :0], counts)
        return [
            {
                "descriptors": image_descriptors,
                "grids": image_grids,
                "boxes": image.masks.boxes,
                "centroids": image.masks.centroids,
                "areas": image.masks.areas,
                "scores": image.masks.predicted_iou,
                "size": np.array(image.masks.size, dtype=np.int32),
            }
            for image, image_descriptors, image_grids in zip(images, descriptors, stored_grids, strict=True)
        ]

    def _embeddings(self, images: Sequence[RegionInput]) -> Tensor:
        """Return the embeddings (B, C, h, w), rounded to float16 as in masks.h5."""
        if self._encoder is None:
            stored = np.stack([image.embedding for image in images if image.embedding is not None])
            return torch.from_numpy(stored).to(self._device)
        return self._encoder.encode([image.pixels for image in images if image.pixels is not None]).half()


def _split(rows: Tensor, counts: list[int]) -> list[NDArray[np.float16]]:
    return [chunk.numpy() for chunk in rows.half().cpu().split(counts)]
