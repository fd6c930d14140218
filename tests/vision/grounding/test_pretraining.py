from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.paths import Paths
from pipeline.vision.grounding.model import build_grounding_dino
from pipeline.vision.grounding.oracle import box_iou
from pipeline.vision.grounding.pretraining import (
    GroundingPretraining,
    _assign,
    _giou,
    _hungarian,
    _iou,
    _quality_focal_loss,
    layer_losses,
)
from pipeline.vision.grounding.scenes import Scenes, grounding_batches
from pipeline.vision.grounding.settings import GroundingSettings
from stages.pretrain import grounding_dino
from stages.settings import PretrainGroundingSettings
from tests.training.cuda_determinism import Operators
from tests.training.resuming import check_resumed
from tests.vision.grounding.grounding_data import ENGINE, PRETRAINED, TEXT_ENCODER, WORLD

SHIPPED = PRETRAINED / "grounding-dino-mini.safetensors"
TRUE_BOXES = torch.tensor([[[0.25, 0.25, 0.2, 0.2], [0.7, 0.6, 0.3, 0.5], [0.0, 0.0, 0.0, 0.0]]])
TOKENS = torch.tensor([[[True, False], [False, True], [False, False]]])


def corners(boxes: torch.Tensor) -> np.ndarray:
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1).numpy()


def test_overlaps_against_an_independent_one() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes1, boxes2 = torch.rand(1, 6, 4, generator=generator) + 0.05, torch.rand(1, 6, 4, generator=generator) + 0.05
    table = box_iou(corners(boxes1[0]), corners(boxes2[0]))
    np.testing.assert_allclose(_iou(boxes1, boxes2)[0], np.diag(table), atol=1e-5)
    a, b = corners(boxes1[0])[:, None], corners(boxes2[0])[None]
    hull = (np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])).prod(-1)
    area = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    union = (area[0] + area[1]) / (1 + table)
    np.testing.assert_allclose(_giou(boxes1, boxes2)[0], table - (hull - union) / hull, atol=1e-5)


def test_matching_is_the_cheapest_one_to_one() -> None:
    boxes = torch.tensor(
        [[[0.71, 0.6, 0.3, 0.5], [0.25, 0.26, 0.2, 0.2], [0.9, 0.1, 0.1, 0.1], [0.25, 0.25, 0.3, 0.3]]]
    )
    logits = torch.tensor([[[-3.0, 2.0], [2.0, -3.0], [0.0, 0.0], [1.0, -3.0]]])
    queries, columns, images = _hungarian(logits, boxes, TRUE_BOXES, TOKENS)
    assert sorted(zip(columns.tolist(), queries.tolist(), strict=True)) == [(0, 1), (1, 0)]
    assert images.tolist() == [0, 0]


def test_perfect_boxes_and_names_cost_next_to_nothing() -> None:
    boxes = torch.cat([TRUE_BOXES[:, :2], torch.full((1, 2, 4), 0.1)], dim=1)
    logits = torch.full((1, 4, 2), -12.0)
    logits[0, 0, 0] = logits[0, 1, 1] = 12.0
    losses = layer_losses(logits, boxes, TRUE_BOXES, TOKENS)
    assert losses["class"] < 1e-3
    assert losses["box"] < 1e-4
    wrong = layer_losses(-logits, boxes, TRUE_BOXES, TOKENS)
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
    loss = _quality_focal_loss(padded, torch.tensor([[[0.5, 0.0, 0.0]]]))
    torch.testing.assert_close(loss, _quality_focal_loss(logits, torch.tensor([[[0.5, 0.0]]])))
    loss.backward()
    assert padded.grad is not None
    assert torch.isfinite(padded.grad).all()


def test_proposals_belong_to_the_box_they_fit() -> None:
    centres = torch.tensor([[0.25, 0.25], [0.7, 0.6], [0.9, 0.1], [0.3, 0.3]])
    boxes = torch.cat([centres, torch.tensor([[0.2, 0.2], [0.3, 0.4], [0.2, 0.2], [0.2, 0.2]])], dim=1)[None]
    assigned, quality = _assign(torch.zeros(1, 4, 2), boxes, centres, TRUE_BOXES, TOKENS)
    assert assigned[0, :2].tolist() == [0, 1]
    # The best proposal of a box is wanted to score as well as it fits.
    np.testing.assert_allclose(quality[0, :2], [1.0, 0.8], atol=1e-4)
    assert quality[0, 2] == 0
    assert 0 < quality[0, 3] < 1


def test_a_few_steps_lower_the_loss(scenes: Scenes) -> None:
    model = build_grounding_dino(GroundingSettings(text_encoder=str(TEXT_ENCODER)), random_weights=True)
    training = GroundingPretraining(model).train()
    batch = next(iter(grounding_batches(scenes, model.tokenizer, 2, np.random.default_rng(0))))
    optimizer = torch.optim.AdamW(training.parameters(), lr=5e-4)
    totals = []
    with Operators() as ran:
        for _ in range(12):
            losses = training.losses(batch)
            assert set(losses) == {"proposal_class", "proposal_box", "query_class", "query_box", "land"}
            total = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(training.parameters(), 1.0)
            optimizer.step()
            totals.append(total.item())
    # What keeps its training from being deterministic on a GPU; with none, `stages/pretrain/grounding_dino` could be.
    assert ran.nondeterministic == {"grid_sampler_2d_backward"}
    assert totals[-1] < 0.7 * totals[0]
    for name, parameter in model.named_parameters():
        # BERT's pooler is not used by Grounding DINO.
        if "pooler" not in name:
            assert parameter.grad is not None, name


def test_an_interrupted_training_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = PretrainGroundingSettings(world=WORLD, epochs=2, batch_size=4)

    def run(output: Path) -> Path:
        return grounding_dino.run(settings, Paths.under(), engine=ENGINE, output=output)

    whole = run(tmp_path / "whole.safetensors")
    history = json.loads((tmp_path / "whole.json").read_text())["validation"]
    assert [record["epoch"] for record in history] == [1, 2]
    build_grounding_dino(GroundingSettings(weights=str(whole), text_encoder=str(tmp_path / "whole")))

    check_resumed(run, whole, tmp_path / ".work" / "pretrain-grounding-dino", grounding_dino, monkeypatch)


@pytest.mark.skipif(not SHIPPED.is_file(), reason="the weights of `sagecc pretrain grounding-dino` are not there")
def test_the_model_that_ships_is_small_and_loads() -> None:
    assert SHIPPED.stat().st_size <= 8_000_000
    settings = GroundingSettings(weights=str(SHIPPED), text_encoder=str(TEXT_ENCODER))
    assert build_grounding_dino(settings).num_queries == 80
