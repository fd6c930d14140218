"""Models, images and thresholds for the benchmark of masks."""

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

from pipeline.datasets.world.pair import make_pair
from pipeline.datasets.world.settings import WorldSettings
from pipeline.vision.sam.cache import MaskSet
from pipeline.vision.sam.model import build_sam
from pipeline.vision.sam.settings import PUBLISHED_GENERATOR, GeneratorSettings, SamSettings

_PASSING, _STABLE = 0.35, 0.7
"""Shares of random weights' masks that pass the thresholds of predicted IoU and stability, about trained ones'."""


@dataclass(frozen=True)
class Case:
    """A model and a workload.

    Attributes:
        sam: The model; random weights are used where its own are absent.
        points: Points a side.
        side: Pixels a side of the images.
        images: Number of images per round of our generator, in one batch.
        reference_images: How many of them the reference generator processes.
        batch: Images per pass of our encoder; None for the default.
    """

    sam: SamSettings
    points: int
    side: int
    images: int
    reference_images: int
    batch: int | None = None


def build(case: Case, images: Sequence[NDArray[np.uint8]], device: torch.device) -> tuple[Sam, GeneratorSettings]:
    """Return the model of a case on `device`, and thresholds that some of its masks pass."""
    if Path(case.sam.weights).is_file():
        mini = GeneratorSettings()
        thresholds = {"pred_iou_thresh": mini.pred_iou_thresh, "stability_score_thresh": mini.stability_score_thresh}
        grid = {"points_per_side": case.points, "max_masks": 4096, "images_per_batch": case.batch}
        settings = PUBLISHED_GENERATOR.model_copy(update=grid | (thresholds if case.sam.variant == "mini" else {}))
        return build_sam(case.sam).to(device), settings
    sam = _random_sam(case.sam).to(device)
    predictor = SamPredictor(sam)
    predictor.set_image(images[0])
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
    # Masks of random weights fill the image: at a lower NMS threshold few would remain.
    settings = PUBLISHED_GENERATOR.model_copy(
        update={
            "points_per_side": case.points,
            "pred_iou_thresh": 0.5,
            # At 0 the reference returns masks without a pixel, and ours does not.
            "stability_score_thresh": max(0.05, round(stability.quantile(1 - _STABLE).item(), 3)),
            "stability_score_offset": offset,
            "box_nms_thresh": 0.98,
            "max_masks": 4096,
            "images_per_batch": case.batch,
        }
    )
    return sam, settings


def _random_sam(settings: SamSettings) -> Sam:
    """Build a SAM of random weights, doubled in the mask decoder so that masks differ from point to point."""
    sam = build_sam(settings, random_weights=True, seed=3)
    with torch.no_grad():
        for parameter in sam.mask_decoder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    return sam


def draw(count: int, side: int) -> list[NDArray[np.uint8]]:
    """Draw images (side, side, 3) of the synthetic world, half a metre a pixel at 256 pixels and one at 128."""
    settings = WorldSettings(size=side, ground_sample_distance=128 / side, train=count)
    pairs = [make_pair(settings, "train", index) for index in range(-(-count // 2))]
    return [image for pair in pairs for image in pair.images][:count]


def mean_iou(ours: MaskSet, theirs: Sequence[NDArray[np.bool_]]) -> float:
    """Return the mean IoU of their masks with ours that match them best; 1 where there are none on either side."""
    if not len(ours) or not len(theirs):
        return float(len(ours) == len(theirs))
    a = np.stack(theirs).reshape(len(theirs), -1).astype(np.float32)
    b = ours.bitmaps().reshape(len(ours), -1).astype(np.float32)
    shared = a @ b.T
    union = a.sum(axis=1)[:, None] + b.sum(axis=1)[None] - shared
    return float((shared / union).max(axis=1).mean())
