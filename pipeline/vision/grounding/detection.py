"""From images to boxes, each with a category and a score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from pipeline.vision.grounding.forward import Grounding
from pipeline.vision.grounding.settings import GroundingSettings


@dataclass(frozen=True)
class Detections:
    """Boxes of one image, best first.

    Attributes:
        boxes: (J, 4) float32: left, top, right, bottom in pixels of the image.
        scores: (J) float32 in [0, 1].
        categories: (J) int64.
        rows: (J) int64: the query that each comes from.
    """

    boxes: Tensor
    scores: Tensor
    categories: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.scores)


def category_scores(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return (B, Q, K): the score of a category is the greatest sigmoid over its tokens.

    Args:
        logits: (B, Q, T) per token.
        tokens: (K, T) bool: tokens of each category, at least one.
    """
    width = tokens.shape[1]
    one = logits[:, :, None, :width].masked_fill(~tokens, float("-inf"))
    return one.amax(-1).sigmoid()


def select(
    grounding: Grounding, tokens: Tensor, settings: GroundingSettings, image: int, size: tuple[int, int], canvas: float
) -> Detections:
    """Choose the boxes of one image.

    Args:
        grounding: Answers for a batch.
        tokens: (K, T) bool: tokens of each category.
        settings: Thresholds, suppression, boxes kept.
        image: Row of the batch.
        size: Height and width of the image in pixels.
        canvas: Side in pixels of the image of the square that the boxes are shares of.
    """
    scores = category_scores(grounding.logits[-1][image : image + 1], tokens)[0]
    kept = scores.amax(1, keepdim=True) >= settings.box_threshold
    rows, categories = torch.nonzero(kept & (scores >= settings.text_threshold), as_tuple=True)
    score = scores[rows, categories]
    limits = torch.tensor([size[1], size[0], size[1], size[0]], device=scores.device)
    boxes = box_convert(grounding.boxes[-1][image], "cxcywh", "xyxy")[rows] * canvas
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    # Boxes that lie in the padding are empty now.
    whole = (boxes[:, 2:] - boxes[:, :2] > 0).all(1)
    boxes, score, rows, categories = boxes[whole], score[whole], rows[whole], categories[whole]
    best = batched_nms(boxes, score, categories, settings.nms)[: settings.boxes]
    return Detections(boxes[best], score[best], categories[best], rows[best])
