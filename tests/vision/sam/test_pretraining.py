from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.datasets.world import WorldSettings
from pipeline.errors import SettingsError
from pipeline.execution import EngineSettings
from pipeline.vision.sam import pretraining
from pipeline.vision.sam.dense import DenseHead, borders, box_sides
from pipeline.vision.sam.examples import SegmentedImages, prompted
from pipeline.vision.sam.losses import mask_costs, mask_ious
from pipeline.vision.sam.model import build_sam
from pipeline.vision.sam.pretraining import SamPretraining, validate
from pipeline.vision.sam.settings import SamSettings
from stages.pretrain import sam as pretrain_sam
from tests.pretraining.resuming import check_resumed

WEIGHTS = Path(__file__).parents[3] / "artifacts" / "pretrained" / "sam-mini.safetensors"


def one_square(count: int = 2, size: int = 64) -> SegmentedImages:
    """Images of one object of 16 × 24 pixels on open ground."""
    segments = torch.full((count, size, size), -1, dtype=torch.int16)
    segments[:, 8:24, 16:40] = 1
    surfaces = torch.where(segments > 0, 2, 1).to(torch.int16)
    images = torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(0))
    return SegmentedImages(images.to(torch.uint8), (segments > 0).to(torch.uint8), segments, surfaces)


@pytest.fixture
def model() -> SamPretraining:
    torch.manual_seed(0)
    return SamPretraining(build_sam(SamSettings(encoder_size=64), random_weights=True), 8)


def test_costs_against_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn((2, 3, 4, 5), generator=generator)
    targets = (torch.rand((2, 2, 4, 5), generator=generator) > 0.5).float()
    costs = mask_costs(logits, targets)
    for prompt in range(2):
        for output in range(3):
            for target in range(2):
                focal = overlap = inside = truth = 0.0
                for x, t in zip(logits[prompt, output].flatten(), targets[prompt, target].flatten(), strict=True):
                    p = 1 / (1 + math.exp(-x.item()))
                    right = p if t else 1 - p
                    focal -= (0.25 if t else 0.75) * (1 - right) ** 2 * math.log(right) / 20
                    overlap, inside, truth = overlap + p * t.item(), inside + p, truth + t.item()
                expected = 20 * focal + 1 - (2 * overlap + 1) / (inside + truth + 1)
                assert costs[prompt, output, target].item() == pytest.approx(expected, rel=1e-4)


def test_ious_are_those_of_the_masks_at_full_size() -> None:
    truth = torch.zeros((1, 2, 8, 8))
    truth[0, 0, 2:6, 2:6] = 1
    logits = torch.full((1, 2, 4, 4), -1.0)
    logits[0, 0, 1:3, 1:3] = 1
    ious = mask_ious(logits, truth)
    assert ious[0, 0, 0].item() == 1.0
    assert ious[0, 1].tolist() == [0.0, 0.0]
    assert ious[0, 0, 1].item() == 0.0


def test_borders_and_sides_against_plain_loops() -> None:
    segments = torch.randint(-2, 2, (2, 6, 7), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    edge, sides = borders(segments), box_sides(segments)
    for image in range(2):
        for y in range(6):
            for x in range(7):
                here = segments[image, y, x]
                around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
                near = [segments[image, a, b] for a, b in around if 0 <= a < 6 and 0 <= b < 7]
                assert bool(edge[image, y, x]) == any(other != here for other in near)
                rows, columns = np.nonzero((segments[image] == here).numpy())
                expected = [x - columns.min(), y - rows.min(), columns.max() - x, rows.max() - y]
                assert sides[image, :, y, x].tolist() == expected


def test_dense_head_predicts_at_sub_cells() -> None:
    cover, border, sides = DenseHead(64, 8)(torch.zeros(2, 64, 4, 4))
    assert cover.shape == (2, 8, 16, 16)
    assert border.shape == (2, 1, 16, 16)
    assert sides.shape == (2, 4, 16, 16)


def test_losses_go_to_all_parts_that_are_asked(model: SamPretraining) -> None:
    model.train()
    images = one_square()
    assert model.losses(prompted(images, 0, 0, np.random.default_rng(0))).keys() == {"dense"}
    assert model.losses(prompted(images, 0, 2, np.random.default_rng(0))).keys() == {"dense", "box", "iou"}
    losses = model.losses(prompted(images, 3, 2, np.random.default_rng(0)))
    assert losses.keys() == {"dense", "box", "point", "iou"}
    assert all(value.isfinite() for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    # Neither masks nor background points are prompts here, and a softmax does not see the bias of its keys.
    unused = ("mask_downscaling", "point_embeddings.0", "k_proj.bias")
    assert {name for name in without if not any(part in name for part in unused)} == set()


def test_a_better_fitting_model_costs_less(model: SamPretraining) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = prompted(one_square(), 4, 2, np.random.default_rng(0))
    totals = []
    for _ in range(12):
        total = torch.stack(list(model.losses(batch).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]


@pytest.mark.parametrize(("guess", "error"), [(1.0, 0.0), (0.75, 0.25)])
def test_a_perfect_answer_scores_one(
    model: SamPretraining, monkeypatch: pytest.MonkeyPatch, guess: float, error: float
) -> None:
    images = one_square()

    def answer(_: object, embeddings: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mask = (images.segments[0, ::2, ::2] > 0).float() - 0.5
        return mask.expand(1, prompts.shape[1], 4, -1, -1), torch.full((1, prompts.shape[1], 4), guess)

    monkeypatch.setattr(pretraining, "decode", answer)
    assert validate(model, images) == {
        "point_iou": 1.0, "chosen_iou": 1.0, "box_iou": 1.0, "iou_error": error, "point_recall": 1.0
    }  # fmt: skip


def test_images_without_large_objects_are_passed_over(model: SamPretraining) -> None:
    images = one_square()
    images.segments[:] = -1
    assert set(validate(model, images).values()) == {0.0}


def test_an_interrupted_training_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = pretrain_sam.PretrainSamSettings(
        world=WorldSettings(train=2, val=1, test=0, size=96, seed=3),
        epochs=2,
        dense_epochs=1,
        batch=2,
        points=2,
        boxes=1,
    )
    engine = EngineSettings(device="cpu", workers=1)
    run = partial(pretrain_sam.run, settings, engine=engine)
    whole = run(tmp_path / "whole.safetensors")
    history = json.loads((tmp_path / "whole.json").read_text())["validation"]
    assert [record["epoch"] for record in history] == [1, 2]
    assert "loss_point" not in history[0]
    assert "loss_point" in history[1]
    assert build_sam(SamSettings(weights=str(whole))).image_encoder.img_size == 128

    check_resumed(run, whole, tmp_path / ".work" / "pretrain-sam", pretraining, monkeypatch)


def test_a_world_whose_size_is_no_multiple_of_the_patch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = pretrain_sam.PretrainSamSettings(world=WorldSettings(train=2, val=1, test=0, size=100), epochs=1)
    with pytest.raises(SettingsError, match="multiple of 8"):
        pretrain_sam.run(settings, tmp_path / "x.safetensors", engine=EngineSettings(device="cpu", workers=1))
    assert not (tmp_path / ".work" / "worlds").exists()


def test_the_training_world_is_not_the_default_profiles() -> None:
    assert pretrain_sam.PretrainSamSettings().world.seed not in (0, 1_000_003)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the weights of `sagecc pretrain sam` are not there")
def test_the_sam_that_ships_is_small_and_loads() -> None:
    assert WEIGHTS.stat().st_size <= 3_500_000
    assert build_sam(SamSettings(weights=str(WEIGHTS))).image_encoder.img_size == 128
