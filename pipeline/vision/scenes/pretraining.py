"""Training the mini scene backbone from scratch on the synthetic world.

Three dense tasks share the features: land cover of each date, object centres of each date, and change between the
dates. They ask of the features what a change caption needs: what is where, how many, and what is new.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.vision.scenes.backbones import SceneBackbone, normalise
from pipeline.vision.scenes.settings import BackboneSettings

DETAIL = 4
"""Targets are predicted at this many sub-cells a side of every feature cell."""


@dataclass(frozen=True)
class ScenePairs:
    """Pairs with the synthetic world's oracles, as tensors.

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

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor) -> ScenePairs:
        """Return the pairs at `rows`."""
        return ScenePairs(self.images[rows], self.land_cover[rows], self.centres[rows], self.change[rows])

    def to(self, device: torch.device) -> ScenePairs:
        """Return the pairs on `device`."""
        tensors = (self.images, self.land_cover, self.centres, self.change)
        return ScenePairs(*(tensor.to(device) for tensor in tensors))

    def turned(self, quarter_turns: int, mirrored: bool) -> ScenePairs:
        """Return the pairs rotated by quarter turns and, if asked, mirrored: overhead images have no up."""

        def turn(x: Tensor) -> Tensor:
            x = torch.rot90(x, quarter_turns, (-2, -1))
            return x.flip(-1) if mirrored else x

        return ScenePairs(turn(self.images), turn(self.land_cover), turn(self.centres), turn(self.change))


class ScenePretraining(nn.Module):
    """A backbone under three linear heads; the heads are thrown away afterwards.

    Args:
        backbone: What is to be trained.
        classes: Number of land-cover classes.
        settings: Normalisation of the images.
    """

    def __init__(self, backbone: SceneBackbone, classes: int, settings: BackboneSettings) -> None:
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
        # bfloat16 with channels last halves the time of a step on CPUs that know it, and on GPUs.
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
        found = F.max_pool2d(pairs.centres.float(), cell)
        changed = F.avg_pool2d(pairs.change.float()[:, None], cell).squeeze(1)
        return {
            "land_cover": -(shares * land_cover.log_softmax(2)).sum(2).mean(),
            # Object centres and changes are rare: without weights the heads would learn to stay silent.
            "centres": F.binary_cross_entropy_with_logits(centres, found, pos_weight=centres.new_tensor(10.0)),
            "change": F.binary_cross_entropy_with_logits(change, changed, pos_weight=change.new_tensor(3.0)),
        }


def batches(pairs: ScenePairs, size: int, rng: np.random.Generator) -> Iterator[ScenePairs]:
    """Yield shuffled batches, each turned and mirrored at random; a last short batch is left out."""
    order = torch.from_numpy(rng.permutation(len(pairs)))
    for start in range(0, len(pairs) - size + 1, size):
        yield pairs.take(order[start : start + size]).turned(int(rng.integers(4)), bool(rng.integers(2)))


@torch.inference_mode()
def validate(model: ScenePretraining, pairs: ScenePairs, size: int) -> dict[str, float]:
    """Return land cover mIoU over the classes present, F1 of object centres, and F1 of change, each in [0, 1]."""
    model.eval()
    confusion = np.zeros((model.classes, model.classes), dtype=np.int64)
    tallies = {"centres": np.zeros(3), "change": np.zeros(3)}
    for rows in torch.arange(len(pairs)).split(size):
        part = pairs.take(rows)
        land_cover, centres, change = model(part.images)
        cell = part.images.shape[-1] // change.shape[-1]
        truth = F.one_hot(part.land_cover.long(), model.classes).movedim(-1, 2).float()
        majority = F.avg_pool2d(truth.flatten(0, 1), cell).argmax(1).flatten()
        predicted = land_cover.flatten(0, 1).argmax(1).flatten()
        confusion += np.bincount(
            (majority * model.classes + predicted).cpu().numpy(), minlength=model.classes**2
        ).reshape(model.classes, model.classes)
        tallies["centres"] += _tally(centres > 0, F.max_pool2d(part.centres.float(), cell) > 0)
        tallies["change"] += _tally(change > 0, F.avg_pool2d(part.change.float()[:, None], cell).squeeze(1) > 0.5)
    overlap = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - overlap
    scores = {"land_cover_miou": float((overlap[union > 0] / union[union > 0]).mean())}
    for name, (hits, predicted_count, true_count) in tallies.items():
        scores[f"{name}_f1"] = float(2 * hits / max(predicted_count + true_count, 1))
    return scores


def _tally(predicted: Tensor, truth: Tensor) -> NDArray[np.float64]:
    return np.array([float((predicted & truth).sum()), float(predicted.sum()), float(truth.sum())])
