"""Inputs that are one array of each date: scene features, images, and semantic maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.cache.reader import Cache
from pipeline.captioners.settings import CaptionerSettings
from pipeline.datasets.images import read_rgb, read_unchanged, resized
from pipeline.datasets.records import Pair, Prepared
from pipeline.errors import CacheError, DataError
from pipeline.files import atomic_path, content_key
from pipeline.paths import Paths
from pipeline.training.inputs import CacheCard, InputSource, SourceCard, cache_units, open_cache, pairs_in
from pipeline.training.settings import Residency
from pipeline.training.stores import ArrayStore, PairArray, store_array
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.scenes.settings import BackboneSettings
from pipeline.vision.scenes.worker import SCHEMA as SCENES


@dataclass(frozen=True)
class SceneSource(InputSource):
    """Features of both dates from scenes.h5: a batch is (B, 2, C, h, w) float16; shape (C, h, w).

    Attributes:
        data: The prepared pairs.
        cache: scenes.h5.
    """

    data: Prepared
    cache: Cache

    name: ClassVar[str] = "scenes"
    stages: ClassVar[tuple[str, ...]] = ("scenes",)

    @classmethod
    def open(cls, captioner: CaptionerSettings, paths: Paths, data: Prepared, *, training: bool) -> SceneSource:
        """See `InputSource.open`."""
        return cls(data, open_cache(paths.scenes, SCENES, {"pairs.jsonl": data.card.pairs_sha256}, data))

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w) of one date's features."""
        return self.cache.schema.field("features").row_shape

    def card(self) -> SourceCard:
        """See `InputSource.card`."""
        return SourceCard(shape=self.shape, caches={"scenes": CacheCard.of(self.cache)})

    def available(self, pairs: Sequence[Pair]) -> list[Pair]:
        """See `InputSource.available`."""
        return pairs_in(self.cache, pairs)

    def store(
        self,
        pairs: Sequence[Pair],
        device: torch.device,
        residency: Literal["auto"] | Residency = "auto",
        *,
        with_rows: bool = False,
    ) -> ArrayStore:
        """See `InputSource.store`."""
        return store_array(_dates_of(self.cache, "features", self.data, pairs), device, residency)


@dataclass(frozen=True)
class ImageSource(InputSource):
    """Images of both dates for a backbone that is trained too: a batch is (B, 2, 3, H, W) uint8.

    The backbone, its normalisation and the shape of its features (C, h, w) are those of scenes.h5. Images of other
    sizes than the backbone's `size` are resized to it; without such a size all must be equal.

    Attributes:
        scenes: The features that the backbone would give untrained.
        work: Folder in which the decoded images are kept.
    """

    scenes: SceneSource
    work: Path

    name: ClassVar[str] = "images"
    stages: ClassVar[tuple[str, ...]] = ("scenes",)

    @classmethod
    def open(cls, captioner: CaptionerSettings, paths: Paths, data: Prepared, *, training: bool) -> ImageSource:
        """See `InputSource.open`."""
        return cls(SceneSource.open(captioner, paths, data, training=training), paths.work / "images")

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w) of the backbone's features of one date."""
        return self.scenes.shape

    @property
    def backbone(self) -> BackboneSettings:
        """The backbone and its normalisation."""
        return backbone_of(self.scenes.cache.provenance.settings)

    def card(self) -> SourceCard:
        """See `InputSource.card`."""
        return self.scenes.card()

    def available(self, pairs: Sequence[Pair]) -> list[Pair]:
        """See `InputSource.available`."""
        return self.scenes.available(pairs)

    def store(
        self,
        pairs: Sequence[Pair],
        device: torch.device,
        residency: Literal["auto"] | Residency = "auto",
        *,
        with_rows: bool = False,
    ) -> ArrayStore:
        """See `InputSource.store`; images are decoded once into a file in the work folder.

        Raises:
            DataError: An image cannot be read, has changed since `prepare`, or has another size than the first one.
        """
        data = self.scenes.data
        data.require_images()
        size = self.backbone.size
        hashes = [[pair.sha256.get("before"), pair.sha256.get("after")] for pair in pairs]
        path = self.work / f"images-{content_key([pair.id for pair in pairs], hashes, size)[:16]}.npy"
        if not path.is_file():
            _decode(pairs, data.root, size, path)
        array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        images = PairArray(array, np.arange(len(pairs)), [pair.id for pair in pairs], str(path))
        return store_array(images, device, residency)


@dataclass(frozen=True)
class MapSource(InputSource):
    """Semantic maps of both dates from semantics.h5: a batch is (B, 2, H, W) uint8; shape (classes, H, W).

    A pixel holds category + 1 of the best-scoring mask, 0 where there is none.

    Attributes:
        cache: semantics.h5.
    """

    cache: Cache

    name: ClassVar[str] = "maps"
    stages: ClassVar[tuple[str, ...]] = ("semantics",)

    @classmethod
    def open(cls, captioner: CaptionerSettings, paths: Paths, data: Prepared, *, training: bool) -> MapSource:
        """See `InputSource.open`."""
        cache = open_cache(paths.semantics, SEMANTICS, {"pairs.jsonl": data.card.pairs_sha256}, data)
        if 0 in cache.schema.field("map").row_shape:
            raise CacheError(
                "the semantic regions were imported and come without maps",
                where=paths.semantics,
                fix="run `sagecc semantics` with semantics.source.kind: images",
            )
        return cls(cache)

    @property
    def shape(self) -> tuple[int, ...]:
        """(classes, H, W): categories with one for none, and the size of the maps."""
        (categories,) = self.cache.schema.field("similarity").row_shape
        return (categories + 1, *self.cache.schema.field("map").row_shape)

    def card(self) -> SourceCard:
        """See `InputSource.card`."""
        return SourceCard(shape=self.shape, caches={"semantics": CacheCard.of(self.cache)})

    def available(self, pairs: Sequence[Pair]) -> list[Pair]:
        """See `InputSource.available`."""
        return pairs_in(self.cache, pairs)

    def store(
        self,
        pairs: Sequence[Pair],
        device: torch.device,
        residency: Literal["auto"] | Residency = "auto",
        *,
        with_rows: bool = False,
    ) -> ArrayStore:
        """See `InputSource.store`."""
        ids = [pair.id for pair in pairs]
        maps, _ = self.cache.rows("map", cache_units(self.cache, ids))
        array = maps.reshape(len(pairs), 2, *maps.shape[1:])
        source = PairArray(array, np.arange(len(pairs)), ids, str(self.cache.path))
        return store_array(source, device, residency)


def backbone_of(settings: Mapping[str, Any]) -> BackboneSettings:
    """Return the backbone's part of the settings of the stage `scenes`."""
    return BackboneSettings(**{name: settings[name] for name in BackboneSettings.model_fields})


def _dates_of(cache: Cache, field: str, data: Prepared, pairs: Sequence[Pair]) -> PairArray:
    """View a dense field of an image cache as an array of pairs, without reading it."""
    flat = cache.memory_map(field)
    array = flat.reshape(len(flat) // 2, 2, *flat.shape[1:])
    rows = np.array([data.index[pair.id] for pair in pairs], dtype=np.int64)
    return PairArray(array, rows, [pair.id for pair in pairs], str(cache.path))


def _decode(pairs: Sequence[Pair], root: Path, size: int | None, path: Path) -> None:
    shape = (size, size) if size else read_rgb(root / pairs[0].before, convert=True).shape[:2]
    files = [
        (root / name, pair.sha256.get(field))
        for pair in pairs
        for field, name in (("before", pair.before), ("after", pair.after))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, ThreadPoolExecutor() as readers:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(pairs), 2, 3, *shape))
        flat = array.reshape(2 * len(pairs), 3, *shape)

        def read(unit: int) -> None:
            flat[unit] = _read(*files[unit], shape, resize=size is not None)

        for _ in readers.map(read, range(len(flat))):
            pass
        array.flush()


def _read(path: Path, sha256: str | None, shape: tuple[int, int], *, resize: bool) -> NDArray[np.uint8]:
    pixels = read_rgb(path, convert=True) if sha256 is None else read_unchanged(path, sha256)
    if pixels.shape[:2] != shape:
        if not resize:
            (height, width), (first_height, first_width) = pixels.shape[:2], shape
            raise DataError(
                f"the image is {width}×{height} pixels, the first one {first_width}×{first_height}",
                where=path,
                fix="set models.backbone.size to the side that all images are to be resized to",
            )
        pixels = resized(pixels, shape)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
