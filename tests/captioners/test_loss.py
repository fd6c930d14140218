from __future__ import annotations

import math

import pytest
import torch

from pipeline.captioners.loss import caption_loss


def plain_loss(logits, targets, smoothing):
    """Equation (23) with the paper's label smoothing, as a loop over words."""
    total, count = 0.0, 0
    size = logits.shape[-1]
    for caption, words in zip(logits.tolist(), targets.tolist(), strict=True):
        for scores, word in zip(caption, words, strict=True):
            if word == 0:
                continue
            normaliser = math.log(sum(math.exp(score) for score in scores))
            for other, score in enumerate(scores):
                share = 1 - smoothing if other == word else smoothing / (size - 1)
                total -= share * (score - normaliser)
            count += 1
    return total / count


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_loss_is_equation_23(smoothing):
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0)) * 2
    targets = torch.tensor([[4, 5, 6, 3], [5, 3, 0, 0], [3, 0, 0, 0]])
    assert caption_loss(logits, targets, smoothing).item() == pytest.approx(
        plain_loss(logits, targets, smoothing), rel=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_padding_has_neither_loss_nor_gradient(smoothing):
    logits = torch.randn(2, 3, 7, requires_grad=True)
    targets = torch.tensor([[4, 3, 0], [3, 0, 0]])
    caption_loss(logits, targets, smoothing).backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum(-1) > 0).equal(targets > 0)


def test_loss_is_float32_for_half_precision_logits():
    loss = caption_loss(torch.randn(2, 3, 7).bfloat16(), torch.full((2, 3), 4))
    assert loss.dtype == torch.float32
