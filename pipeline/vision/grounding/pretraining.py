"""Training of the mini Grounding DINO from scratch on the synthetic world: losses, initialisation, validation.

The losses are contrastive focal loss on text tokens, and L1 and GIoU on boxes. Decoder layers match boxes to queries
one to one (Hungarian matching, as in DETR). The encoder's proposals are matched one to many by how well they already
fit (task-aligned assignment, TOOD, Feng et al. 2021): with so dense a supervision a small model learns to detect from
scratch in a few epochs.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou_loss

from pipeline.datasets.world.settings import LAND_CLASSES
from pipeline.vision.grounding.detector import normalise, select_detections
from pipeline.vision.grounding.model import GroundingDINO, GroundingOutputs, forward_with_states
from pipeline.vision.grounding.oracle import precision_by_category, without_thresholds
from pipeline.vision.grounding.prompts import category_tokens
from pipeline.vision.grounding.scenes import GroundingBatch, Scenes
from pipeline.vision.grounding.settings import GroundingSettings, parse_prompts

_L1_WEIGHT: Final = 5.0
_GIOU_WEIGHT: Final = 2.0
_CLASS_COST: Final = 2.0
"""Weight of the class in the cost of Hungarian matching."""
_PROPOSALS_PER_BOX: Final = 6
"""Most proposals that are assigned to a true box."""
_IOU_EXPONENT: Final = 4
"""Exponent of the IoU in the alignment metric of task-aligned assignment (TOOD: β)."""
_PRIOR_LOGIT: Final = 4.0
"""Logits begin at its negative: a box is rarely named by a token."""


def proposal_losses(
    logits: Tensor, boxes: Tensor, centres: Tensor, true_boxes: Tensor, tokens: Tensor
) -> dict[str, Tensor]:
    """Return the losses of the encoder's proposals.

    Args:
        logits: (B, N, T); −∞ on padded tokens.
        boxes: (B, N, 4) centre x, y, width, height, as shares.
        centres: (N, 2) of the cells.
        true_boxes: (B, M, 4); rows of zeros are padding.
        tokens: (B, M, T) bool: tokens that name them.

    Returns:
        `class` and `box`, scalars.
    """
    with torch.no_grad():
        assigned, quality = _assign(logits, boxes, centres, true_boxes, tokens)
        targets = tokens.gather(1, assigned[..., None].expand(-1, -1, tokens.shape[-1])) * quality[..., None]
        box_targets = true_boxes.gather(1, assigned[..., None].expand(-1, -1, 4))
    weight = quality.sum().clamp(min=1.0)
    positive = quality > 0
    return {
        "class": _quality_focal_loss(logits, targets) / weight,
        "box": _box_loss(boxes[positive], box_targets[positive], quality[positive]) / weight,
    }


def layer_losses(logits: Tensor, boxes: Tensor, true_boxes: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Return the losses of one decoder layer; shapes as for `proposal_losses`, N being the number of queries."""
    queries, columns, images = _hungarian(logits.detach(), boxes.detach(), true_boxes, tokens)
    targets = torch.zeros_like(logits)
    matched_boxes, box_targets = boxes[images, queries], true_boxes[images, columns]
    with torch.no_grad():
        quality = _iou(matched_boxes, box_targets)
        # Without a floor the first matches, which fit badly, would be trained as negatives.
        targets[images, queries] = tokens[images, columns] * quality.clamp(min=0.2)[:, None]
    count = max(len(queries), 1)
    return {
        "class": _quality_focal_loss(logits, targets) / count,
        "box": _box_loss(matched_boxes, box_targets, torch.ones_like(quality)) / count,
    }


@torch.no_grad()
def _assign(
    logits: Tensor, boxes: Tensor, centres: Tensor, true_boxes: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the index of each proposal's true box (B, N), and its quality in [0, 1], 0 without a box (B, N)."""
    low, high = true_boxes[..., :2] - true_boxes[..., 2:] / 2, true_boxes[..., :2] + true_boxes[..., 2:] / 2
    inside = ((centres > low[:, :, None]) & (centres < high[:, :, None])).all(-1)
    distance = (centres - true_boxes[:, :, None, :2]).square().sum(-1)
    nearest = torch.zeros_like(inside).scatter_(2, distance.argmin(2, keepdim=True), True)
    candidates = (inside | nearest) & tokens.any(-1)[..., None]
    scores = _token_logits(logits, tokens).sigmoid()
    iou = _iou(boxes[:, None], true_boxes[:, :, None])
    metric = scores.sqrt() * iou**_IOU_EXPONENT * candidates
    lowest = metric.topk(min(_PROPOSALS_PER_BOX, metric.shape[2]), dim=2).values[..., -1:]
    metric = metric * (metric >= lowest)
    # A candidate of several boxes is assigned to the one that it overlaps most.
    assigned = (iou * (metric > 0)).argmax(1)
    metric = metric * F.one_hot(assigned, true_boxes.shape[1]).transpose(1, 2)
    best = metric.amax(2, keepdim=True)
    best_iou = (iou * (metric > 0)).amax(2, keepdim=True)
    quality = metric / best.clamp(min=1e-12) * best_iou
    return assigned, quality.amax(1)


def _token_logits(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean logit of each true box's tokens at each proposal or query, (B, M, N)."""
    shares = tokens / tokens.sum(-1, keepdim=True).clamp(min=1)
    mean: Tensor = shares.float() @ logits.clamp(min=-50).transpose(1, 2)
    return mean


@torch.no_grad()
def _hungarian(logits: Tensor, boxes: Tensor, true_boxes: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices of matched queries, of their true boxes, and of their images, one entry per match."""
    scores = _token_logits(logits, tokens).sigmoid()
    class_cost = 0.25 * (1 - scores) ** 2 * -(scores + 1e-8).log() - 0.75 * scores**2 * -(1 - scores + 1e-8).log()
    cost = _CLASS_COST * class_cost + _L1_WEIGHT * torch.cdist(true_boxes, boxes, p=1)
    cost = cost - _GIOU_WEIGHT * _giou(true_boxes, boxes)
    costs, counts = cost.cpu().numpy(), tokens.any(-1).sum(1).tolist()
    queries, columns, images = [], [], []
    for image, count in enumerate(counts):
        image_columns, image_queries = linear_sum_assignment(costs[image, :count])
        queries.extend(image_queries)
        columns.extend(image_columns)
        images.extend([image] * len(image_queries))
    device = logits.device
    return (
        torch.tensor(queries, dtype=torch.int64, device=device),
        torch.tensor(columns, dtype=torch.int64, device=device),
        torch.tensor(images, dtype=torch.int64, device=device),
    )


def _quality_focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the summed focal loss for targets in [0, 1] (generalised focal loss, Li et al. 2020)."""
    finite = torch.isfinite(logits)
    logits = torch.where(finite, logits, 0.0)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (loss * (targets - logits.sigmoid()).square() * finite).sum()


def _box_loss(boxes: Tensor, true_boxes: Tensor, weight: Tensor) -> Tensor:
    l1 = (boxes - true_boxes).abs().sum(-1)
    giou = generalized_box_iou_loss(box_convert(boxes, "cxcywh", "xyxy"), box_convert(true_boxes, "cxcywh", "xyxy"))
    loss: Tensor = ((_L1_WEIGHT * l1 + _GIOU_WEIGHT * giou) * weight).sum()
    return loss


def _iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the IoU of boxes (…, 4), centre form, element by element."""
    low = torch.maximum(boxes1[..., :2] - boxes1[..., 2:] / 2, boxes2[..., :2] - boxes2[..., 2:] / 2)
    high = torch.minimum(boxes1[..., :2] + boxes1[..., 2:] / 2, boxes2[..., :2] + boxes2[..., 2:] / 2)
    intersection = (high - low).clamp(min=0).prod(-1)
    union = boxes1[..., 2:].prod(-1) + boxes2[..., 2:].prod(-1) - intersection
    return intersection / union.clamp(min=1e-12)


def _giou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the generalised IoU of every pair of boxes (B, M, 4) and (B, Q, 4), centre form, as (B, M, Q)."""
    a, b = box_convert(boxes1, "cxcywh", "xyxy")[:, :, None], box_convert(boxes2, "cxcywh", "xyxy")[:, None]
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - intersection
    giou: Tensor = intersection / union.clamp(min=1e-12) - (hull - union) / hull.clamp(min=1e-12)
    return giou


class GroundingPretraining(nn.Module):
    """Grounding DINO and its losses.

    Args:
        model: The model to train, at random weights.
    """

    def __init__(self, model: GroundingDINO) -> None:
        super().__init__()
        self.model = model
        # An auxiliary task, dropped afterwards: the backbone learns land cover long before boxes fit.
        self.land = nn.Conv2d(model.hidden_dim * model.num_feature_levels, len(LAND_CLASSES), 1)
        _initialise(model)

    def forward(self, images: Tensor, captions: list[str]) -> GroundingOutputs:
        """Run the model on images (B, 3, H, W), 0–255, and their captions."""
        padding = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool, device=images.device)
        return forward_with_states(self.model, normalise(images), padding, captions, half=self.training)

    def losses(self, batch: GroundingBatch) -> dict[str, Tensor]:
        """Return the losses of the encoder's proposals and of all decoder layers, each a scalar."""
        outputs = self(batch.images, batch.captions)
        proposals = outputs.proposals
        losses = {
            f"proposal_{name}": loss
            for name, loss in proposal_losses(
                proposals.logits, proposals.boxes, proposals.centres, batch.boxes, batch.tokens
            ).items()
        }
        for logits, boxes in zip(outputs.logits, outputs.boxes, strict=True):
            for name, loss in layer_losses(logits, boxes, batch.boxes, batch.tokens).items():
                losses[f"query_{name}"] = losses.get(f"query_{name}", 0.0) + loss
        return {**losses, "land": self._land_cover_loss(outputs.levels, batch.land_cover)}

    def _land_cover_loss(self, levels: list[Tensor], land_cover: Tensor) -> Tensor:
        """Return the cross-entropy of the shares of land-cover classes in the cells of the finest level."""
        size = levels[0].shape[-2:]
        stacked = torch.cat([F.interpolate(level.float(), size=size, mode="nearest") for level in levels], dim=1)
        one_hot = F.one_hot(land_cover.long(), len(LAND_CLASSES)).movedim(-1, 1).float()
        shares = F.avg_pool2d(one_hot, land_cover.shape[-1] // size[1])
        logits: Tensor = self.land(stacked)
        return -(shares * logits.log_softmax(1)).sum(1).mean()


def _initialise(model: GroundingDINO) -> None:
    """Initialise for a training of minutes: logits of rare detections, and fusion of text and image from the start."""
    # The constructor freezes BERT's pooler, which is unused; the training state expects all parameters to be trained.
    model.requires_grad_(True)
    width = model.hidden_dim
    # Normalised features are orthogonal to the vector of ones, so that these biases shift all logits by −_PRIOR_LOGIT.
    bias = math.sqrt(_PRIOR_LOGIT / width)
    last = model.transformer.encoder.fusion_layers[-1].layer_norm_l
    with torch.no_grad():
        last.weight.fill_(0.3)
        last.bias.fill_(bias)
        for norm in (model.transformer.decoder.norm, model.transformer.enc_output_norm):
            norm.bias.fill_(-bias)
        for layer in model.transformer.encoder.fusion_layers:
            layer.gamma_v.fill_(0.1)
            layer.gamma_l.fill_(0.01)


@torch.inference_mode()
def validate(training: GroundingPretraining, scenes: Scenes, batch_size: int) -> dict[str, float]:
    """Return AP50 of every default category and their mean, over scenes on the model's device."""
    training.eval()
    settings = without_thresholds(GroundingSettings())
    categories = parse_prompts(settings.prompts)
    caption, tokens = category_tokens(training.model.tokenizer, categories)
    side = scenes.images.shape[-1]
    detections = []
    for start in range(0, len(scenes), batch_size):
        images = scenes.images[start : start + batch_size]
        outputs = training(images, [caption.text] * len(images))
        detections += [
            select_detections(outputs, tokens.to(images.device), settings, row, (side, side), side)
            for row in range(len(images))
        ]
    scores = precision_by_category(scenes, categories, detections)
    return {"ap50": float(np.mean(list(scores.values()))), **{f"ap50_{name}": score for name, score in scores.items()}}
