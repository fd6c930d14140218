"""Weights and thresholds with which random images have masks, for tests of the masks stage."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from pipeline.vision.sam.settings import GeneratorSettings, SamSettings
from tests.vision.sam.random_sam import random_sam

THRESHOLDS = GeneratorSettings(
    points_per_side=4,
    pred_iou_thresh=0.5,
    stability_score_thresh=0.5,
    stability_score_offset=0.15,
    mask_nms_thresh=None,
    max_masks=20,
)


def lively_weights(folder: Path, *, seed: int = 3) -> SamSettings:
    """Write random weights of the mini SAM to `folder`/sam.safetensors; return settings for them."""
    path = folder / "sam.safetensors"
    save_file(random_sam(SamSettings(), seed=seed).state_dict(), path)
    return SamSettings(weights=str(path))
