"""Pretraining of the mini scene backbone on the synthetic world.

Three dense tasks share its features: land cover of each date, object centres of each date, and change between dates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.vision.scenes.backbones import Backbone, normalise
from pipeline.vision.scenes.settings import BackboneSettings
from pipeline.vision.tensors import TensorBatch, rotate_and_flip

DETAIL = 4
"""Sub-cells per side of every feature cell, at which targets are predicted."""


@dataclass(frozen=True)
class ScenePairs(TensorBatch):
    """Image pairs with the dense targets of the synthetic world.

    Attributes:
        images: (P, 2, 3, H, W) uint8.
        land_cover: (P, 2, H, W) uint8 class indices.
        centres: (P, 2, H, W) bool, true at object centroids.
        change: (P, H, W) bool.
    """

    images: Tensor
    land_cover: Tensor
    centres: Tensor
    change: Tensor

    def rotated(self, quarter_turns: int, mirrored: bool) -> ScenePairs:
        """Return the pairs rotated by quarter turns and, if asked, mirrored; see `rotate_and_flip`."""
        return self.map(lambda tensor: rotate_and_flip(tensor, quarter_turns, mirrored))


class ScenePretraining(nn.Module):
    """A backbone with three dense prediction heads, which only its training needs.

    Args:
        backbone: The backbone to train.
        classes: Number of land-cover classes.
        settings: Normalisation of the images.
    """

    def __init__(self, backbone: Backbone, classes: int, settings: BackboneSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self._settings = settings
        self.classes = classes
        width = backbone.channels
        self.land_cover = nn.Conv2d(width, classes * DETAIL**2, 1)
        self.centres = nn.Conv2d(width, DETAIL**2, 1)
        self.change = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, DETAIL**2, 1)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map images (B, 2, 3, H, W), 0–255, to logits at 1/(stride/DETAIL) of their size.

        Returns:
            Land cover (B, 2, classes, h, w), object centres (B, 2, h, w), change (B, h, w).
        """
        # bfloat16 with channels last halves the time of a step on GPUs and on CPUs that support it.
        pixels = normalise(images.flatten(0, 1), self._settings).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.training):
            features = self.backbone(pixels)
        features = features.float()
        land_cover = F.pixel_shuffle(self.land_cover(features), DETAIL).unflatten(0, (-1, 2))
        centres = F.pixel_shuffle(self.centres(features), DETAIL).squeeze(1).unflatten(0, (-1, 2))
        before, after = features.unflatten(0, (-1, 2)).unbind(1)
        change = self.change(torch.cat([(before - after).abs(), before + after], dim=1))
        return land_cover, centres, F.pixel_shuffle(change, DETAIL).squeeze(1)

    def losses(self, pairs: ScenePairs) -> dict[str, Tensor]:
        """Return the loss of each task, each a scalar."""
        land_cover, centres, change = self(pairs.images)
        cell = pairs.images.shape[-1] // change.shape[-1]
        one_hot = F.one_hot(pairs.land_cover.long(), self.classes).movedim(-1, 2).float()
        shares = F.avg_pool2d(one_hot.flatten(0, 1), cell).unflatten(0, (-1, 2))
        centre_cells = F.max_pool2d(pairs.centres.float(), cell)
        changed_shares = F.avg_pool2d(pairs.change.float()[:, None], cell).squeeze(1)
        return {
            "land_cover": -(shares * land_cover.log_softmax(2)).sum(2).mean(),
            # Object centres and changes are rare: without weights the heads would learn to predict none.
            "centres": F.binary_cross_entropy_with_logits(centres, centre_cells, pos_weight=centres.new_tensor(10.0)),
            "change": F.binary_cross_entropy_with_logits(change, changed_shares, pos_weight=change.new_tensor(3.0)),
        }


def batches(pairs: ScenePairs, batch_size: int, rng: np.random.Generator) -> Iterator[ScenePairs]:
    """Yield shuffled batches, each rotated and mirrored at random; a last short batch is left out."""
    order = torch.from_numpy(rng.permutation(len(pairs)))
    for start in range(0, len(pairs) - batch_size + 1, batch_size):
        yield pairs.select(order[start : start + batch_size]).rotated(int(rng.integers(4)), bool(rng.integers(2)))


@torch.inference_mode()
def validate(model: ScenePretraining, pairs: ScenePairs, batch_size: int) -> dict[str, float]:
    """Return mIoU of land cover over the classes present, F1 of object centres, and F1 of change, each in [0, 1]."""
    model.eval()
    confusion = np.zeros((model.classes, model.classes), dtype=np.int64)
    counts = {"centres": np.zeros(3), "change": np.zeros(3)}
    for rows in torch.arange(len(pairs)).split(batch_size):
        batch = pairs.select(rows)
        land_cover, centres, change = model(batch.images)
        cell = batch.images.shape[-1] // change.shape[-1]
        one_hot = F.one_hot(batch.land_cover.long(), model.classes).movedim(-1, 2).float()
        majority = F.avg_pool2d(one_hot.flatten(0, 1), cell).argmax(1).flatten()
        predicted = land_cover.flatten(0, 1).argmax(1).flatten()
        confusion += np.bincount(
            (majority * model.classes + predicted).cpu().numpy(), minlength=model.classes**2
        ).reshape(model.classes, model.classes)
        changed_shares = F.avg_pool2d(batch.change.float()[:, None], cell).squeeze(1)
        counts["centres"] += _counts(centres > 0, F.max_pool2d(batch.centres.float(), cell) > 0)
        counts["change"] += _counts(change > 0, changed_shares > 0.5)
    intersection = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - intersection
    scores = {"land_cover_miou": float((intersection[union > 0] / union[union > 0]).mean())}
    for name, (tp, predicted_count, actual_count) in counts.items():
        scores[f"{name}_f1"] = float(2 * tp / max(predicted_count + actual_count, 1))
    return scores


def _counts(predicted: Tensor, actual: Tensor) -> NDArray[np.float64]:
    """Return the number of true positives, of predicted positives and of actual positives."""
    return np.array([float((predicted & actual).sum()), float(predicted.sum()), float(actual.sum())])
