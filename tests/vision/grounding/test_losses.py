from __future__ import annotations

import numpy as np
import torch

from pipeline.vision.grounding.losses import _assign, _giou, _hungarian, _iou, _quality_focal, layer_losses
from pipeline.vision.grounding.oracle import box_iou

GOLD = torch.tensor([[[0.25, 0.25, 0.2, 0.2], [0.7, 0.6, 0.3, 0.5], [0.0, 0.0, 0.0, 0.0]]])
NAMES = torch.tensor([[[True, False], [False, True], [False, False]]])


def corners(boxes: torch.Tensor) -> np.ndarray:
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1).numpy()


def test_overlaps_against_an_independent_one() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(1, 6, 4, generator=generator) + 0.05, torch.rand(1, 6, 4, generator=generator) + 0.05
    table = box_iou(corners(one[0]), corners(other[0]))
    np.testing.assert_allclose(_iou(one, other)[0], np.diag(table), atol=1e-5)
    a, b = corners(one[0])[:, None], corners(other[0])[None]
    hull = (np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])).prod(-1)
    area = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    union = (area[0] + area[1]) / (1 + table)
    np.testing.assert_allclose(_giou(one, other)[0], table - (hull - union) / hull, atol=1e-5)


def test_matching_is_the_cheapest_one_to_one() -> None:
    boxes = torch.tensor(
        [[[0.71, 0.6, 0.3, 0.5], [0.25, 0.26, 0.2, 0.2], [0.9, 0.1, 0.1, 0.1], [0.25, 0.25, 0.3, 0.3]]]
    )
    logits = torch.tensor([[[-3.0, 2.0], [2.0, -3.0], [0.0, 0.0], [1.0, -3.0]]])
    rows, columns, images = _hungarian(logits, boxes, GOLD, NAMES)
    assert sorted(zip(columns.tolist(), rows.tolist(), strict=True)) == [(0, 1), (1, 0)]
    assert images.tolist() == [0, 0]


def test_perfect_boxes_and_names_cost_next_to_nothing() -> None:
    boxes = torch.cat([GOLD[:, :2], torch.full((1, 2, 4), 0.1)], dim=1)
    logits = torch.full((1, 4, 2), -12.0)
    logits[0, 0, 0] = logits[0, 1, 1] = 12.0
    losses = layer_losses(logits, boxes, GOLD, NAMES)
    assert losses["class"] < 1e-3
    assert losses["box"] < 1e-4
    wrong = layer_losses(-logits, boxes, GOLD, NAMES)
    assert wrong["class"] > 1


def test_no_box_at_all_still_teaches_silence() -> None:
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    losses = layer_losses(logits, torch.full((1, 3, 4), 0.5), torch.zeros(1, 1, 4), torch.zeros(1, 1, 2).bool())
    assert losses["box"] == 0
    losses["class"].backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()


def test_padded_tokens_cost_nothing() -> None:
    logits = torch.tensor([[[1.0, -2.0]]])
    padded = torch.tensor([[[1.0, -2.0, float("-inf")]]], requires_grad=True)
    loss = _quality_focal(padded, torch.tensor([[[0.5, 0.0, 0.0]]]))
    torch.testing.assert_close(loss, _quality_focal(logits, torch.tensor([[[0.5, 0.0]]])))
    loss.backward()
    assert padded.grad is not None
    assert torch.isfinite(padded.grad).all()


def test_proposals_belong_to_the_box_they_fit() -> None:
    centres = torch.tensor([[0.25, 0.25], [0.7, 0.6], [0.9, 0.1], [0.3, 0.3]])
    boxes = torch.cat([centres, torch.tensor([[0.2, 0.2], [0.3, 0.4], [0.2, 0.2], [0.2, 0.2]])], dim=1)[None]
    owner, quality = _assign(torch.zeros(1, 4, 2), boxes, centres, GOLD, NAMES, NAMES.any(-1))
    assert owner[0, :2].tolist() == [0, 1]
    # The best proposal of a box is wanted to score as well as it fits.
    np.testing.assert_allclose(quality[0, :2], [1.0, 0.8], atol=1e-4)
    assert quality[0, 2] == 0
    assert 0 < quality[0, 3] < 1
