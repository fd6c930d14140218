"""Training the mini Grounding DINO from scratch on the synthetic world."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.datasets.world import LAND_CLASSES
from pipeline.vision.grounding.categories import parse_prompts
from pipeline.vision.grounding.detection import select
from pipeline.vision.grounding.forward import Grounding, ground
from pipeline.vision.grounding.images import normalise
from pipeline.vision.grounding.library import GroundingDINO
from pipeline.vision.grounding.losses import layer_losses, proposal_losses
from pipeline.vision.grounding.scenes import GroundingBatch, Scenes
from pipeline.vision.grounding.scoring import every_box, precision_by_category
from pipeline.vision.grounding.settings import GroundingSettings
from pipeline.vision.grounding.text import category_tokens

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
