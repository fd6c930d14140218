"""The worker that fills matches.h5: regions of both dates in, confidences and assignments out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import torch
from numpy.typing import NDArray

from pipeline.cache.reader import Cache
from pipeline.errors import DataError
from pipeline.runtime import resolve_device
from pipeline.vision.adaptive_batch import AdaptiveBatch
from pipeline.vision.matching.build import build_matcher
from pipeline.vision.matching.cache import pair_arrays
from pipeline.vision.matching.matcher import collate
from pipeline.vision.matching.settings import AssignmentSettings, MatcherSettings
from pipeline.vision.regions.cache import SCHEMA as REGIONS
from pipeline.vision.regions.cache import RegionSet, read_regions

DATES = ("before", "after")


@dataclass(frozen=True)
class PairToMatch:
    """One pair to match.

    Attributes:
        path: regions.h5.
        pair: Number of the pair in it.
        missing: Dates without regions, because the image was skipped.
    """

    path: Path
    pair: int
    missing: tuple[str, ...] = ()


class MatchWorker:
    """Worker that matches the regions of pairs; see `pipeline.execution.compute.Worker`.

    Args:
        settings: The matcher.
        assignment: What counts as a match.
        descriptor_width: d, channels of the descriptors.
        length: Regions that every image is padded to.
        batch_size: Pairs per forward pass; halves when a GPU's memory runs out.
        device: Where to compute.
    """

    def __init__(
        self,
        settings: MatcherSettings,
        assignment: AssignmentSettings,
        descriptor_width: int,
        length: int,
        batch_size: int,
        device: Literal["auto", "cpu", "cuda"],
    ) -> None:
        self.batch_size = batch_size
        self._assignment = assignment
        self._length = length
        self._device = resolve_device(device)
        self._matcher = build_matcher(settings, descriptor_width).to(self._device)
        self._batch = AdaptiveBatch(batch_size, "pairs per pass of the matcher", "lower matches.length")
        self._caches: dict[Path, Cache] = {}
        self._opening = Lock()

    def load(self, pair: PairToMatch) -> tuple[RegionSet, RegionSet]:
        """Read the regions of both dates.

        Raises:
            DataError: One date's regions are missing.
            CacheError: regions.h5 is damaged or was replaced.
        """
        if pair.missing:
            raise DataError(
                f"no regions of the image {' and '.join(pair.missing)}: it was skipped",
                where=pair.path,
                fix="mend what masks.failures.json and regions.failures.json name and run `sagecc masks` and "
                "`sagecc regions` again",
            )
        with self._opening:
            if pair.path not in self._caches:
                self._caches[pair.path] = Cache.open(pair.path, REGIONS)
        before, after = (read_regions(self._caches[pair.path], 2 * pair.pair + date) for date in (0, 1))
        return before, after

    @torch.inference_mode()
    def compute(self, pairs: Sequence[tuple[RegionSet, RegionSet]]) -> list[dict[str, NDArray[Any]]]:
        """Return the fields of matches.h5 of each pair.

        Raises:
            ResourceError: Not even one pair fits into the GPU's memory.
        """
        return self._batch.map(pairs, self._match)

    def _match(self, pairs: Sequence[tuple[RegionSet, RegionSet]]) -> list[dict[str, NDArray[Any]]]:
        batch = collate(pairs, self._length)
        tables = self._matcher(batch.to(self._device)).cpu().numpy()
        return [
            pair_arrays(table[: len(before), : len(after)], self._assignment)
            for table, (before, after) in zip(tables, pairs, strict=True)
        ]
