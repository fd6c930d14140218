"""A small prepared data set and random models for tests of stage semantics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.vision.grounding.settings import GroundingSettings
from pipeline.weights import save_tensors
from stages.settings import SemanticsSettings
from tests.vision.grounding.grounding_data import TEXT_ENCODER, random_grounding_dino
from tests.worlds.region_data import SQUARE, write_pairs, write_sam


def write_grounding(folder: Path, *, seed: int = 1) -> GroundingSettings:
    """Write random weights of the mini Grounding DINO; return settings that keep many of its answers."""
    path = folder / "grounding.safetensors"
    save_tensors(path, random_grounding_dino(None, seed).state_dict())
    return GroundingSettings(
        weights=str(path),
        text_encoder=str(TEXT_ENCODER),
        size=64,
        prompts=("building . house", "road", "swimming pool"),
        box_threshold=0.0,
        text_threshold=0.0,
        max_boxes=6,
    )


def make(folder: Path, sizes: Sequence[tuple[int, int]] = SQUARE, **changes: Any) -> tuple[Path, SemanticsSettings]:
    """Write pairs of random pictures of these sizes and random models; return the prepared folder and settings."""
    prepared, sam = write_pairs(folder, sizes), write_sam(folder)
    settings = SemanticsSettings(grounding=write_grounding(folder), sam=sam, top_q=3, batch_size=2)
    return prepared, settings.model_copy(update=changes)


def with_grounding(settings: SemanticsSettings, **changes: Any) -> SemanticsSettings:
    """Return settings with other ones of the detector."""
    return settings.model_copy(update={"grounding": settings.grounding.model_copy(update=changes)})
