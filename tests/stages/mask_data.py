"""Weights and thresholds with which random images have masks, for tests of the masks stage."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from benchmarks._random_sam import lively_sam
from pipeline.vision.sam.settings import GeneratorSettings, SamSettings

THRESHOLDS = GeneratorSettings(
    points_per_side=4, predicted_iou=0.5, stability=0.5, stability_offset=0.15, mask_nms=None, keep=20
)


def lively_weights(folder: Path, *, seed: int = 3) -> SamSettings:
    """Write random weights of the mini SAM to `folder`/sam.safetensors; return settings for them."""
    path = folder / "sam.safetensors"
    save_file(lively_sam(SamSettings(), seed=seed).state_dict(), path)
    return SamSettings(weights=str(path))
