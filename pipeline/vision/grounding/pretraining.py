"""Training the mini Grounding DINO from scratch on the synthetic world.

What Grounding DINO is trained to minimise: contrastive focal loss on text tokens, L1 and GIoU on boxes.

Decoder layers match boxes to queries one to one (Hungarian matching, as in DETR). The encoder's proposals are matched
one to many by how well they already fit (task-aligned assignment, TOOD, Feng et al. 2021): with so dense a supervision
a small model learns to detect from scratch in a few epochs.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou_loss

from pipeline.datasets.world.settings import LAND_CLASSES
from pipeline.vision.grounding.detector import normalise, select
from pipeline.vision.grounding.model import Grounding, GroundingDINO, ground
from pipeline.vision.grounding.oracle import every_box, precision_by_category
from pipeline.vision.grounding.prompts import category_tokens
from pipeline.vision.grounding.scenes import GroundingBatch, Scenes
from pipeline.vision.grounding.settings import GroundingSettings, parse_prompts

_L1, _GIOU = 5.0, 2.0
_MATCH_CLASS = 2.0
_PER_OBJECT = 6
_SHARPNESS = 4


def proposal_losses(logits: Tensor, boxes: Tensor, centres: Tensor, gold: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Return the losses of the encoder's proposals.

    Args:
        logits: (B, N, T); −∞ on padded tokens.
        boxes: (B, N, 4) centre x, y, width, height, as shares.
        centres: (N, 2) of the cells.
        gold: (B, M, 4) true boxes; rows of zeros are padding.
        tokens: (B, M, T) bool: tokens that name them.

    Returns:
        `class` and `box`, scalars.
    """
    real = tokens.any(-1)
    with torch.no_grad():
        owner, quality = _assign(logits, boxes, centres, gold, tokens, real)
        wanted = tokens.gather(1, owner[..., None].expand(-1, -1, tokens.shape[-1])) * quality[..., None]
        mine = gold.gather(1, owner[..., None].expand(-1, -1, 4))
    weight = quality.sum().clamp(min=1.0)
    positive = quality > 0
    return {
        "class": _quality_focal(logits, wanted) / weight,
        "box": _box_loss(boxes[positive], mine[positive], quality[positive]) / weight,
    }


def layer_losses(logits: Tensor, boxes: Tensor, gold: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Return the losses of one decoder layer; shapes as for `proposal_losses`, N being the queries."""
    rows, columns, images = _hungarian(logits.detach(), boxes.detach(), gold, tokens)
    wanted = torch.zeros_like(logits)
    matched, mine = boxes[images, rows], gold[images, columns]
    with torch.no_grad():
        fit = _iou(matched, mine)
        # A floor keeps the first matches, which fit badly, from being told to stay silent.
        wanted[images, rows] = tokens[images, columns] * fit.clamp(min=0.2)[:, None]
    count = max(len(rows), 1)
    return {
        "class": _quality_focal(logits, wanted) / count,
        "box": _box_loss(matched, mine, torch.ones_like(fit)) / count,
    }


@torch.no_grad()
def _assign(
    logits: Tensor, boxes: Tensor, centres: Tensor, gold: Tensor, tokens: Tensor, real: Tensor
) -> tuple[Tensor, Tensor]:
    """Return for every proposal the row of its box (B, N) and how well it fits, 0 for none (B, N)."""
    low, high = gold[..., :2] - gold[..., 2:] / 2, gold[..., :2] + gold[..., 2:] / 2
    inside = ((centres > low[:, :, None]) & (centres < high[:, :, None])).all(-1)
    distance = (centres - gold[:, :, None, :2]).square().sum(-1)
    nearest = torch.zeros_like(inside).scatter_(2, distance.argmin(2, keepdim=True), True)
    allowed = (inside | nearest) & real[..., None]
    score = _named(logits, tokens).sigmoid()
    fit = _iou(boxes[:, None], gold[:, :, None])
    metric = score.sqrt() * fit**_SHARPNESS * allowed
    least = metric.topk(min(_PER_OBJECT, metric.shape[2]), dim=2).values[..., -1:]
    metric = metric * (metric >= least)
    # A proposal that several boxes want belongs to the one it overlaps most.
    owner = (fit * (metric > 0)).argmax(1)
    metric = metric * F.one_hot(owner, gold.shape[1]).transpose(1, 2)
    best = metric.amax(2, keepdim=True)
    top_fit = (fit * (metric > 0)).amax(2, keepdim=True)
    quality = metric / best.clamp(min=1e-12) * top_fit
    return owner, quality.amax(1)


def _named(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return (B, M, N): the mean logit of a true box's tokens at each proposal or query."""
    share = tokens / tokens.sum(-1, keepdim=True).clamp(min=1)
    named: Tensor = share.float() @ logits.clamp(min=-50).transpose(1, 2)
    return named


@torch.no_grad()
def _hungarian(logits: Tensor, boxes: Tensor, gold: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows of queries, rows of true boxes, and their images, one entry per match."""
    score = _named(logits, tokens).sigmoid()
    worth = 0.25 * (1 - score) ** 2 * -(score + 1e-8).log() - 0.75 * score**2 * -(1 - score + 1e-8).log()
    cost = _MATCH_CLASS * worth + _L1 * torch.cdist(gold, boxes, p=1) - _GIOU * _giou(gold, boxes)
    table, counts = cost.cpu().numpy(), tokens.any(-1).sum(1).tolist()
    rows, columns, images = [], [], []
    for image, count in enumerate(counts):
        column, row = linear_sum_assignment(table[image, :count])
        rows.extend(row)
        columns.extend(column)
        images.extend([image] * len(row))
    device = logits.device
    return (
        torch.tensor(rows, dtype=torch.int64, device=device),
        torch.tensor(columns, dtype=torch.int64, device=device),
        torch.tensor(images, dtype=torch.int64, device=device),
    )


def _quality_focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the summed focal loss towards scores `wanted` in [0, 1] (generalised focal loss, Li et al. 2020)."""
    real = torch.isfinite(logits)
    logits = torch.where(real, logits, 0.0)
    loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (loss * (wanted - logits.sigmoid()).square() * real).sum()


def _box_loss(boxes: Tensor, gold: Tensor, weight: Tensor) -> Tensor:
    l1 = (boxes - gold).abs().sum(-1)
    giou = generalized_box_iou_loss(box_convert(boxes, "cxcywh", "xyxy"), box_convert(gold, "cxcywh", "xyxy"))
    loss: Tensor = ((_L1 * l1 + _GIOU * giou) * weight).sum()
    return loss


def _iou(one: Tensor, other: Tensor) -> Tensor:
    """Return the IoU of boxes (…, 4), centre form, element by element."""
    low = torch.maximum(one[..., :2] - one[..., 2:] / 2, other[..., :2] - other[..., 2:] / 2)
    high = torch.minimum(one[..., :2] + one[..., 2:] / 2, other[..., :2] + other[..., 2:] / 2)
    shared = (high - low).clamp(min=0).prod(-1)
    union = one[..., 2:].prod(-1) + other[..., 2:].prod(-1) - shared
    return shared / union.clamp(min=1e-12)


def _giou(one: Tensor, other: Tensor) -> Tensor:
    """Return the generalised IoU of every pair of boxes (B, M, 4) and (B, Q, 4), centre form, as (B, M, Q)."""
    a, b = box_convert(one, "cxcywh", "xyxy")[:, :, None], box_convert(other, "cxcywh", "xyxy")[:, None]
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    giou: Tensor = shared / union.clamp(min=1e-12) - (hull - union) / hull.clamp(min=1e-12)
    return giou


_PRIOR = 4.0


class GroundingPretraining(nn.Module):
    """Grounding DINO and its losses.

    Args:
        model: What is to be trained, at random weights.
    """

    def __init__(self, model: GroundingDINO) -> None:
        super().__init__()
        self.model = model
        # Thrown away afterwards: what covers each cell is a lesson that the backbone learns before any box fits.
        self.land = nn.Conv2d(model.hidden_dim * model.num_feature_levels, len(LAND_CLASSES), 1)
        _prepare(model)

    def forward(self, images: Tensor, captions: list[str]) -> Grounding:
        """Ground captions in images (B, 3, H, W), 0–255."""
        padding = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool, device=images.device)
        return ground(self.model, normalise(images), padding, captions, half=self.training)

    def losses(self, batch: GroundingBatch) -> dict[str, Tensor]:
        """Return the losses of the encoder's proposals and of all decoder layers, each a scalar."""
        answer = self(batch.images, batch.captions)
        proposals = answer.proposals
        parts = {
            f"proposal_{name}": value
            for name, value in proposal_losses(
                proposals.logits, proposals.boxes, proposals.centres, batch.boxes, batch.tokens
            ).items()
        }
        for logits, boxes in zip(answer.logits, answer.boxes, strict=True):
            for name, value in layer_losses(logits, boxes, batch.boxes, batch.tokens).items():
                parts[f"query_{name}"] = parts.get(f"query_{name}", 0.0) + value
        return {**parts, "land": self._land_loss(answer.levels, batch.land)}

    def _land_loss(self, levels: list[Tensor], land: Tensor) -> Tensor:
        """Return the cross-entropy of the shares of land classes in the cells of the finest level."""
        size = levels[0].shape[-2:]
        stacked = torch.cat([F.interpolate(level.float(), size=size, mode="nearest") for level in levels], dim=1)
        one_hot = F.one_hot(land.long(), len(LAND_CLASSES)).movedim(-1, 1).float()
        shares = F.avg_pool2d(one_hot, land.shape[-1] // size[1])
        logits: Tensor = self.land(stacked)
        return -(shares * logits.log_softmax(1)).sum(1).mean()


def _prepare(model: GroundingDINO) -> None:
    """Begin where a training of minutes can: rare detections as prior, words and image seeing each other at once."""
    # The constructor freezes BERT's pooler, which nothing uses; the training state counts on all parameters alike.
    model.requires_grad_(True)
    width = model.hidden_dim
    # Normalised features are orthogonal to the vector of ones, so that these biases shift all logits by −_PRIOR.
    towards = math.sqrt(_PRIOR / width)
    last = model.transformer.encoder.fusion_layers[-1].layer_norm_l
    with torch.no_grad():
        last.weight.fill_(0.3)
        last.bias.fill_(towards)
        for norm in (model.transformer.decoder.norm, model.transformer.enc_output_norm):
            norm.bias.fill_(-towards)
        for layer in model.transformer.encoder.fusion_layers:
            layer.gamma_v.fill_(0.1)
            layer.gamma_l.fill_(0.01)


@torch.inference_mode()
def validate(training: GroundingPretraining, scenes: Scenes, size: int) -> dict[str, float]:
    """Return AP50 of every default category and their mean, over scenes on the model's device."""
    training.eval()
    settings = every_box(GroundingSettings())
    categories = parse_prompts(settings.prompts)
    caption, tokens = category_tokens(training.model.tokenizer, categories)
    side = scenes.images.shape[-1]
    seen = []
    for start in range(0, len(scenes), size):
        images = scenes.images[start : start + size]
        answer = training(images, [caption.text] * len(images))
        seen += [
            select(answer, tokens.to(images.device), settings, row, (side, side), side) for row in range(len(images))
        ]
    scores = precision_by_category(scenes, categories, seen)
    return {"ap50": float(np.mean(list(scores.values()))), **{f"ap50_{name}": score for name, score in scores.items()}}
