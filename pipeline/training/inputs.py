"""What a captioner is trained on and asked about: a prepared data set, and the scenes cache that belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Expectation, Provenance
from pipeline.captioners.scene_encoder import NO_SCENES
from pipeline.datasets.images import read_rgb, read_unchanged, resized
from pipeline.datasets.records import Pair, Prepared, read_prepared
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.errors import CacheError, DataError
from pipeline.files import atomic_path, content_key
from pipeline.training.stores import PairSource
from pipeline.vision.scenes.settings import BackboneSettings
from pipeline.vision.scenes.worker import SCHEMA


@dataclass(frozen=True)
class Inputs:
    """A prepared data set and its scenes, found to belong together; without them for captioners that take none.

    Attributes:
        data: The pairs.
        vocabulary: Their vocabulary.
        cache: Features of both dates of every pair, rows in the order of the pairs; None where none are taken.
    """

    data: Prepared
    vocabulary: Vocabulary
    cache: Cache | None

    @property
    def scenes(self) -> Cache:
        """The scenes; for what cannot do without them."""
        if self.cache is None:
            raise ValueError("the captioner takes no scenes")
        return self.cache

    @property
    def provenance(self) -> Provenance:
        """From what the scenes were made."""
        return self.scenes.provenance

    @property
    def scene_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one date's features; all 0 without scenes."""
        if self.cache is None:
            return NO_SCENES
        channels, height, width = self.scenes.schema.field("features").row_shape
        return channels, height, width

    @property
    def backbone(self) -> BackboneSettings:
        """The backbone and the normalisation that the scenes were made with."""
        return backbone_of(self.provenance.settings)

    def available(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Return those of `pairs` whose scenes are in the cache; bad images may have been skipped."""
        if self.cache is None:
            return list(pairs)
        left_out = {int(unit) // 2 for unit in self.scenes.missing}
        return [pair for pair in pairs if self.data.index[pair.id] not in left_out]

    def features(self, pairs: Sequence[Pair]) -> PairSource:
        """Return the cached features (2, C, h, w) float16 of `pairs`; empty ones without scenes."""
        if self.cache is None:
            nothing = np.zeros((len(self.data.pairs), 2, *NO_SCENES), np.float16)
            return PairSource(nothing, self._rows(pairs), [pair.id for pair in pairs], str(self.data.folder))
        flat = self.scenes.memory_map("features")
        array = flat.reshape(len(flat) // 2, 2, *flat.shape[1:])
        return PairSource(array, self._rows(pairs), [pair.id for pair in pairs], str(self.scenes.path))

    def images(self, pairs: Sequence[Pair], work: Path) -> PairSource:
        """Return the images (2, 3, H, W) uint8 of `pairs`, decoded once into a file under `work`.

        Images of other sizes than the backbone takes are brought to its size; without such a size all must be equal.

        Raises:
            DataError: An image cannot be read, has changed since `prepare`, or has another size than the first one.
        """
        self.data.require_images()
        size = self.backbone.size
        hashes = [[pair.sha256.get("before"), pair.sha256.get("after")] for pair in pairs]
        path = work / f"images-{content_key([pair.id for pair in pairs], hashes, size)[:16]}.npy"
        if not path.is_file():
            _decode(pairs, self.data.root, size, path)
        array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        return PairSource(array, np.arange(len(pairs)), [pair.id for pair in pairs], str(path))

    def _rows(self, pairs: Sequence[Pair]) -> NDArray[np.int64]:
        return np.array([self.data.index[pair.id] for pair in pairs], dtype=np.int64)


def open_inputs(prepared: Path, scenes: Path | None) -> Inputs:
    """Read a prepared data set and open its scenes, unless there are none to be taken.

    Raises:
        DataError: The prepared folder is missing or damaged.
        CacheError: The cache is missing, damaged, or was made from other pairs than those prepared.
    """
    data = read_prepared(prepared)
    vocabulary = Vocabulary.load(data.vocabulary_path)
    if scenes is None:
        return Inputs(data, vocabulary, None)
    expect = Expectation(upstream={"pairs.jsonl": data.card.pairs_sha256}, repair="sagecc scenes")
    cache = Cache.open(scenes, SCHEMA, expect=expect)
    check_pairs(cache, data)
    return Inputs(data, vocabulary, cache)


def check_pairs(cache: Cache, data: Prepared) -> None:
    """Make sure that a cache is about the prepared pairs, in their order.

    Raises:
        CacheError: It is not.
    """
    if cache.ids != tuple(pair.id for pair in data.pairs):
        odd = next((pair.id for pair in data.pairs if pair.id not in cache.index), None)
        what = "its pairs are in another order" if odd is None else f"pair {odd!r} is not in it"
        stage = cache.schema.stage
        raise CacheError(
            f"the {stage} are not those of the prepared pairs: {what}", where=cache.path, fix=f"run `sagecc {stage}`"
        )


def backbone_of(settings: Any) -> BackboneSettings:
    """Return the backbone's part of the settings of the stage `scenes`."""
    return BackboneSettings(**{name: settings[name] for name in BackboneSettings.model_fields})


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
                fix="set scenes.size to the side that all images are to be resized to",
            )
        pixels = resized(pixels, shape)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
