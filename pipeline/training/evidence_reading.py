"""From the caches of regions, matches and semantics to the padded tensors of some pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache import Cache
from pipeline.captioners.evidence import Evidence
from pipeline.captioners.fusion_settings import EvidenceSettings
from pipeline.captioners.regions import Regions
from pipeline.errors import CacheError
from pipeline.training.evidence import EvidenceCaches, region_field
from pipeline.training.places import not_finite
from pipeline.vision.matching.cache import read_matches, stage_assignment


def read_evidence(caches: EvidenceCaches, ids: Sequence[str], *, places: bool = False) -> Evidence:
    """Read the evidence of the pairs `ids` into tensors on the CPU, features in the type they are stored in.

    Args:
        caches: The open caches.
        ids: Which pairs.
        places: Whether regions tell their rows (`Regions.rows`), for explanations.

    Raises:
        CacheError: A pair was left out of a cache, or a value of it is no number or lies outside of the image; pair and
            stage are named.
    """
    regions, semantics = caches.caches.get("regions"), caches.caches.get("semantics")
    return Evidence(
        motion=None if regions is None else _motion(regions, caches.caches["matches"], caches.settings, ids, places),
        semantics=None if semantics is None else _semantics(semantics, ids, places),
        graph=None if caches.graph is None else caches.graph.tensors,
    )


def _motion(regions: Cache, matches: Cache, settings: EvidenceSettings, ids: Sequence[str], places: bool) -> Regions:
    """Regions without a counterpart at the other date, those before first."""
    units, pairs = _units(regions, ids), _units(matches, ids)
    centroids, counts = regions.rows("centroids", units)
    sizes, _ = regions.rows("size", units)
    starts = np.cumsum(counts) - counts
    rule = None
    if settings.match_threshold is not None:
        rule = stage_assignment(matches).model_copy(update={"threshold": settings.match_threshold})
    chosen: list[NDArray[np.int32]] = []
    for pair in pairs.tolist():
        found = read_matches(matches, pair, rule, kept=settings.masks_kept)
        chosen += [found.unmatched_before, found.unmatched_after]
    owners = np.repeat(np.arange(len(units)), [len(alone) for alone in chosen])
    rows = np.concatenate(chosen) + starts[owners]
    table = _Table(regions, ids, owners)
    field = region_field(settings)
    # Unit by unit: grids of all regions may be more than memory holds.
    features = np.concatenate([regions.row(field, unit)[alone] for unit, alone in zip(units, chosen, strict=True)])
    features = features.reshape(len(rows), math.prod(features.shape[1:]))
    table.check(field, features)
    # Sizes are stored as height and width, centroids as x and y.
    shares: NDArray[np.float32] = (centroids[rows] / sizes[owners, ::-1]).astype(np.float32)
    table.check("centroids", shares)
    table.refuse(np.any((shares < 0) | (shares > 1), axis=1), "centroids", "lie outside of the image")
    return table.regions(features, centroids=shares, rows=rows - starts[owners] if places else None)


def _semantics(semantics: Cache, ids: Sequence[str], places: bool) -> Regions:
    """Regions that the stage selected, in its order, with their largest similarity to a prompt."""
    units = _units(semantics, ids)
    selected, counts = semantics.rows("selected", units)
    rows = np.flatnonzero(selected)
    owners = np.repeat(np.arange(len(units)), counts)[rows]
    starts = np.cumsum(counts) - counts
    table = _Table(semantics, ids, owners)
    embeddings = semantics.rows("embeddings", units)[0][rows]
    similarity = semantics.rows("similarity", units)[0][rows]
    table.check("embeddings", embeddings)
    table.check("similarity", similarity)
    scores = similarity.max(1).astype(np.float32)
    return table.regions(embeddings, scores=scores, rows=rows - starts[owners] if places else None)


def _units(cache: Cache, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the units of pairs one after the other.

    Raises:
        CacheError: One of them was skipped when the cache was made.
    """
    dates = np.arange(cache.schema.units_per_item)
    units = np.array([cache.unit(name) for name in ids], dtype=np.int64)[:, None] + dates
    skipped = np.isin(units, cache.missing).any(1)
    if skipped.any():
        stage = cache.schema.stage
        raise CacheError(
            f"pair {ids[int(skipped.argmax())]!r} was skipped when `sagecc {stage}` ran, and "
            f"{int(skipped.sum()) - 1} more",
            where=cache.path,
            fix=f"mend what {cache.path.stem}.failures.json names beside it and run `sagecc {stage}` again",
        )
    return units.ravel()


@dataclass(frozen=True)
class _Table:
    """Rows of a cache, pair after pair.

    Attributes:
        cache: Where they come from, for messages.
        ids: The pairs.
        owners: (R,) for each row pair · 2 + date, rising.
    """

    cache: Cache
    ids: Sequence[str]
    owners: NDArray[np.int64]

    def check(self, field: str, values: NDArray[Any]) -> None:
        """Refuse values (R, …) that are no numbers."""
        self.refuse(not_finite(values), field, "hold NaN or infinity")

    def refuse(self, bad: NDArray[np.bool_], field: str, why: str) -> None:
        """Refuse bad rows (R,)."""
        if bad.any():
            stage = self.cache.schema.stage
            raise CacheError(
                f"the {field} of pair {self.ids[int(self.owners[bad.argmax()]) // 2]!r} in {stage} {why}",
                where=self.cache.path,
                fix=f"look at the pair with `sagecc draw`, then run `sagecc {stage}` again",
            )

    def regions(
        self,
        features: NDArray[Any],
        *,
        centroids: NDArray[np.float32] | None = None,
        scores: NDArray[np.float32] | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> Regions:
        """Pad the rows to regions of pairs."""
        counts = np.bincount(self.owners // 2, minlength=len(self.ids)).tolist()

        def split(values: NDArray[Any]) -> tuple[Tensor, ...]:
            return torch.split(torch.from_numpy(values), counts)

        return Regions.padded(
            split(features),
            dates=split(self.owners % 2),
            centroids=None if centroids is None else split(centroids),
            scores=None if scores is None else split(scores),
            rows=None if rows is None else split(rows),
        )
