"""The schema of matches.h5, and reading it, with another τ than the stage's if asked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Field, Schema
from pipeline.vision.matching.matcher import Assignment, assign
from pipeline.vision.matching.settings import AssignmentSettings

SCHEMA = Schema(
    stage="matches",
    version=1,
    unit="pair",
    fields=(
        Field(
            "confidences",
            dtype="float16",
            offsets="cells",
            unit="probability",
            description="Z of equation (9): matching confidence of region p before with region q after, row by row; "
            "`counts` has its shape",
        ),
        Field("counts", dtype="int32", shape=(2,), unit="region", description="number of regions before and after"),
        Field(
            "matched",
            dtype="int32",
            shape=(2,),
            offsets="matches",
            unit="region",
            description="regions before and after that match: mutual largest confidences above τ",
        ),
        Field(
            "matched_confidence",
            dtype="float32",
            offsets="matches",
            unit="probability",
            description="confidence of each match",
        ),
        Field(
            "unmatched_before",
            dtype="int32",
            offsets="gone",
            unit="region",
            description="U1 of equation (10): regions before without a counterpart after",
        ),
        Field(
            "unmatched_after",
            dtype="int32",
            offsets="new",
            unit="region",
            description="U2 of equation (10): regions after without a counterpart before",
        ),
    ),
)
"""Layout of matches.h5; regions are numbered as in regions.h5 and masks.h5."""


def pair_arrays(confidences: NDArray[np.floating], settings: AssignmentSettings) -> dict[str, NDArray[Any]]:
    """Return all fields of one pair from its confidences (N1, N2).

    The assignment is made from the stored float16 values, so that readers who repeat it get the same.
    """
    stored = confidences.astype(np.float16)
    assignment = assign(stored, settings)
    return {
        "confidences": stored.ravel(),
        "counts": np.array(stored.shape, dtype=np.int32),
        "matched": assignment.matched,
        "matched_confidence": assignment.confidence,
        "unmatched_before": assignment.unmatched_before,
        "unmatched_after": assignment.unmatched_after,
    }


def stage_assignment(cache: Cache) -> AssignmentSettings:
    """Return the τ and the rule that the stage used."""
    return AssignmentSettings.model_validate(cache.provenance.settings["assignment"])


def read_confidences(cache: Cache, pair: int) -> NDArray[np.float16]:
    """Return the confidences (N1, N2) of a pair."""
    before, after = cache.row("counts", pair)
    table: NDArray[np.float16] = cache.row("confidences", pair).reshape(before, after)
    return table


def read_matches(
    cache: Cache, pair: int, settings: AssignmentSettings | None = None, *, max_masks: int | None = None
) -> Assignment:
    """Return matches and unmatched regions of a pair.

    Args:
        cache: matches.h5.
        pair: Number of the pair.
        settings: Another τ or rule than the stage's, applied to the stored confidences; None: those of the stage.
        max_masks: Assign only so many regions of each image, the first ones; None: all.
    """
    if settings is not None or max_masks is not None:
        return assign(read_confidences(cache, pair)[:max_masks, :max_masks], settings or stage_assignment(cache))
    return Assignment(
        matched=cache.row("matched", pair),
        confidence=cache.row("matched_confidence", pair),
        unmatched_before=cache.row("unmatched_before", pair),
        unmatched_after=cache.row("unmatched_after", pair),
    )
