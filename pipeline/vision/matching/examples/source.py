"""The images that examples are made of: a prepared data set and its masks.h5."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Literal

from pipeline.cache import Cache, Expectation
from pipeline.datasets.images import read_unchanged
from pipeline.datasets.records import Prepared, read_prepared
from pipeline.errors import CacheError, DataError
from pipeline.vision.matching.examples.making import MaskedImage
from pipeline.vision.regions.source import MaskSource, read_source, require_weights
from pipeline.vision.sam.cache import SCHEMA, read_masks

_HELD_OUT = 10
"""Where a data set has no validation split, every tenth training pair is held out."""


class PreparedImages:
    """Images of both dates with their masks, by unit: 2i + t is pair i at date t.

    Attributes:
        data: The prepared pairs.
        masks: masks.h5 of them.
        sam: The SAM that the masks were made with.
    """

    def __init__(self, data: Prepared, masks: Cache, sam: MaskSource) -> None:
        self.data, self.masks, self.sam = data, masks, sam

    @classmethod
    def open(cls, prepared: Path, masks: Path) -> PreparedImages:
        """Open a prepared data set and the masks that belong to it.

        Raises:
            CacheError: The masks are missing, damaged, or of another data set.
            CheckpointError: SAM's weights are missing, or not those of the masks.
            DataError: The prepared folder is missing or damaged.
        """
        data = read_prepared(prepared)
        expect = Expectation(upstream={"pairs.jsonl": data.card.pairs_sha256}, repair="sagecc masks")
        cache = Cache.open(masks, SCHEMA, expect=expect)
        if cache.ids != tuple(pair.id for pair in data.pairs):
            raise CacheError("the masks are not those of the prepared pairs", where=masks, fix="run `sagecc masks`")
        source = read_source(cache)
        require_weights(source)
        return cls(data, cache, source)

    def units(self, split: Literal["train", "val"]) -> list[int]:
        """Return the units of a split, those left out whose image was skipped.

        Raises:
            DataError: There is none.
        """
        numbers = [index for index, pair in enumerate(self.data.pairs) if pair.split == split]
        if not self.data.split("val"):
            training = [index for index, pair in enumerate(self.data.pairs) if pair.split == "train"]
            held_out = training[_HELD_OUT - 1 :: _HELD_OUT] or training[-1:]
            numbers = held_out if split == "val" else [index for index in training if index not in set(held_out)]
        skipped = set(self.masks.missing.tolist())
        units = [unit for index in numbers for unit in (2 * index, 2 * index + 1) if unit not in skipped]
        if not units:
            raise DataError(
                f"the data set has no images to make {split} examples of",
                where=self.data.folder,
                fix="a data set needs two pairs of the training split at least",
            )
        return units

    def __len__(self) -> int:
        return 2 * len(self.data.pairs)

    def __getitem__(self, unit: int) -> MaskedImage:
        """Read one image and its masks.

        Raises:
            DataError: The image cannot be read, or has changed since `prepare`.
        """
        pair, date = self.data.pairs[unit // 2], ("before", "after")[unit % 2]
        path = self.data.root / getattr(pair, date)
        pixels = read_unchanged(path, pair.sha256[date])
        masks = read_masks(self.masks, unit)
        return MaskedImage(pixels, masks.bitmaps(), masks.predicted_iou)

    def close(self) -> None:
        """Let go of the masks."""
        self.masks.close()

    def __enter__(self) -> PreparedImages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
