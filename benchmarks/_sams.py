"""Models, pictures and thresholds that both sides of the benchmark of masks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.amg import calculate_stability_score

from benchmarks._random_sam import lively_sam
from pipeline.datasets.world.pair import make_pair
from pipeline.datasets.world.settings import WorldSettings
from pipeline.vision.sam.cache import MaskSet
from pipeline.vision.sam.model import build_sam
from pipeline.vision.sam.settings import PUBLISHED_GENERATOR, GeneratorSettings, SamSettings

_PASSING, _STABLE = 0.35, 0.7
"""Shares of random weights' masks whose predicted IoU and stability suffice, about those of trained ones."""


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        sam: The model; where its weights are absent, random ones take their place.
        points: Points a side.
        side: Pixels a side of the pictures.
        images: How many pictures our generator gets in a round, in one batch.
        reference_images: How many of them the reference generator gets.
        batch: Images per pass of our encoder; None for the default.
    """

    sam: SamSettings
    points: int
    side: int
    images: int
    reference_images: int
    batch: int | None = None


def build(case: Case, pictures: Sequence[NDArray[np.uint8]], device: torch.device) -> tuple[Sam, GeneratorSettings]:
    """Return the model of a case on `device`, and thresholds under which it finds masks."""
    if Path(case.sam.weights).is_file():
        mini = GeneratorSettings()
        thresholds = {"predicted_iou": mini.predicted_iou, "stability": mini.stability}
        chosen = {"points_per_side": case.points, "keep": 4096, "images_per_pass": case.batch}
        settings = PUBLISHED_GENERATOR.model_copy(update=chosen | (thresholds if case.sam.variant == "mini" else {}))
        return build_sam(case.sam).to(device), settings
    sam = lively_sam(case.sam).to(device)
    predictor = SamPredictor(sam)
    predictor.set_image(pictures[0])
    size = sam.image_encoder.img_size
    points = torch.rand((32, 1, 2), generator=torch.Generator().manual_seed(0)) * size
    labels = torch.ones((32, 1), dtype=torch.int)
    masks, iou, _ = predictor.predict_torch(points.to(device), labels.to(device), return_logits=True)
    with torch.no_grad():
        # A setting is between 0 and 1, where random predictions need not lie.
        bias = sam.mask_decoder.iou_prediction_head.layers[-1].bias
        bias -= iou.quantile(1 - _PASSING) - 0.5
    offset = round(0.1 * masks.std().item(), 4)
    stability = calculate_stability_score(masks.flatten(0, 1), 0.0, offset).nan_to_num(0)
    # Masks of random weights fill the picture: by a lower threshold for overlaps all but one would go.
    settings = PUBLISHED_GENERATOR.model_copy(
        update={
            "points_per_side": case.points,
            "predicted_iou": 0.5,
            # At 0 the reference returns masks without a pixel, and ours does not.
            "stability": max(0.05, round(stability.quantile(1 - _STABLE).item(), 3)),
            "stability_offset": offset,
            "box_nms": 0.98,
            "keep": 4096,
            "images_per_pass": case.batch,
        }
    )
    return sam, settings


def draw(count: int, side: int) -> list[NDArray[np.uint8]]:
    """Draw pictures (side, side, 3) of the synthetic world, half a metre a pixel at 256 pixels and one at 128."""
    settings = WorldSettings(size=side, ground_sample_distance=128 / side, train=count)
    pairs = [make_pair(settings, "train", index) for index in range(-(-count // 2))]
    return [image for pair in pairs for image in pair.images][:count]


def mean_iou(ours: MaskSet, theirs: Sequence[NDArray[np.bool_]]) -> float:
    """Return the mean IoU of their masks with ours that match them best; 1 where there are none on either side."""
    if not len(ours) or not len(theirs):
        return float(len(ours) == len(theirs))
    mine = ours.bitmaps().reshape(len(ours), -1).astype(np.float32)
    other = np.stack(theirs).reshape(len(theirs), -1).astype(np.float32)
    shared = other @ mine.T
    union = other.sum(axis=1)[:, None] + mine.sum(axis=1)[None] - shared
    return float((shared / union).max(axis=1).mean())
