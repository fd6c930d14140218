from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Provenance
from pipeline.cache.writer import pack
from pipeline.vision.sam.cache import SCHEMA, MaskSet, read_masks
from pipeline.vision.sam.postprocess import pack as packed

Arrays = Mapping[str, NDArray[Any]]


class _Units:
    def __init__(self, arrays: Sequence[Arrays | None]) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def lengths(self, unit: int) -> dict[str, int] | None:
        arrays = self._arrays[unit]
        return None if arrays is None else {"masks": len(arrays["areas"]), "rle": len(arrays["counts"])}

    def read(self, unit: int) -> Arrays:
        arrays = self._arrays[unit]
        assert arrays is not None
        return arrays


def _write(path: Path, arrays: Sequence[Arrays | None]) -> Cache:
    provenance = Provenance("masks", SCHEMA.version, {}, "0" * 64)
    pack(path, SCHEMA, provenance, [f"pair_{number}" for number in range(len(arrays) // 2)], _Units(arrays))
    return Cache.open(path, SCHEMA)


def _masks(bitmaps: NDArray[np.bool_]) -> MaskSet:
    scores = torch.linspace(0.9, 0.6, len(bitmaps))
    return packed(torch.from_numpy(bitmaps), scores, scores / 2)


def _bitmaps(count: int, height: int, width: int) -> NDArray[np.bool_]:
    return np.random.default_rng(count).random((count, height, width)) < 0.4


def test_masks_come_back(tmp_path: Path) -> None:
    bitmaps = [_bitmaps(3, 9, 7), _bitmaps(0, 9, 7), _bitmaps(1, 4, 12)]
    none = np.zeros((0, 0, 0), dtype=np.float16)
    arrays: list[Arrays | None] = [{**_masks(masks).arrays(), "embedding": none} for masks in bitmaps]
    with _write(tmp_path / "masks.h5", [*arrays, None]) as cache:
        cache.verify()
        for unit, expected in enumerate(bitmaps):
            masks = read_masks(cache, unit)
            assert len(masks) == len(expected)
            assert masks.size == expected.shape[1:]
            np.testing.assert_array_equal(masks.bitmaps(), expected)
            np.testing.assert_array_equal(masks.areas, expected.sum(axis=(1, 2)))
            written = arrays[unit]
            assert written is not None
            for name, array in masks.arrays().items():
                np.testing.assert_array_equal(array, written[name])
                assert array.dtype == written[name].dtype
        # What was skipped is empty, and no image at all.
        skipped = read_masks(cache, 3)
        assert (len(skipped), skipped.size, cache.missing.tolist()) == (0, (0, 0), [3])
        assert skipped.bitmaps().shape == (0, 0, 0)
        assert cache.row("embedding", 0).shape == (0, 0, 0)


def test_embeddings_may_be_stored(tmp_path: Path) -> None:
    embeddings = np.random.default_rng(0).random((2, 4, 3, 3)).astype(np.float16)
    arrays = [{**_masks(_bitmaps(2, 6, 6)).arrays(), "embedding": embedding} for embedding in embeddings]
    with _write(tmp_path / "masks.h5", arrays) as cache:
        np.testing.assert_array_equal(cache.memory_map("embedding"), embeddings)
