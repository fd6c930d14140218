"""What masks cost against targets, and how well they overlap: every output of a prompt against every target of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.vision.sam.upsampling import THRESHOLD

FOCAL_WEIGHT = 20.0
"""Weight of the focal loss beside the dice loss (SAM, arXiv 2304.02643, appendix A)."""
_ALPHA = 0.25


def mask_costs(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 20 × focal + dice loss of each output against each target.

    Focal loss with α = 0.25, γ = 2 (Lin et al. 2017) averaged over the mask, dice loss with one pixel added to both
    sides of the fraction. Both are linear in the target, so that all pairs are products of matrices.

    Args:
        logits: (P, K, h, w): K outputs of each of P prompts.
        targets: (P, L, h, w) in [0, 1]: the share of each cell that is of the target.

    Returns:
        (P, K, L).
    """
    x, truth = logits.flatten(2), targets.flatten(2).transpose(1, 2)
    inside, outside = x.sigmoid(), (-x).sigmoid()
    surprise = F.softplus(-x)
    present = _ALPHA * outside.square() * surprise
    absent = (1 - _ALPHA) * inside.square() * (surprise + x)
    focal = (torch.bmm(present - absent, truth) + absent.sum(-1, keepdim=True)) / x.shape[-1]
    overlap = torch.bmm(inside, truth)
    dice = 1 - (2 * overlap + 1) / (inside.sum(-1, keepdim=True) + truth.sum(1)[:, None] + 1)
    return FOCAL_WEIGHT * focal + dice


@torch.no_grad()
def mask_ious(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the IoU of each output with each target, as the masks come out in the end.

    Args:
        logits: (P, K, h, w) in low resolution; they are brought to the targets' size bilinearly.
        targets: (P, L, H, W), 0 or 1.

    Returns:
        (P, K, L) in [0, 1]; 0 where both are empty.
    """
    whole = F.interpolate(logits.detach(), size=targets.shape[-2:], mode="bilinear", align_corners=False)
    masks, truth = (whole > THRESHOLD).float().flatten(2), targets.float().flatten(2)
    overlap = torch.bmm(masks, truth.transpose(1, 2))
    union = masks.sum(-1, keepdim=True) + truth.sum(-1)[:, None] - overlap
    return overlap / union.clamp(min=1)
