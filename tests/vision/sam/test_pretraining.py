from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.datasets.world.settings import WorldSettings
from pipeline.errors import SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from pipeline.vision.sam import pretraining
from pipeline.vision.sam.model import build_sam
from pipeline.vision.sam.pretraining import (
    DenseHead,
    SamPretraining,
    SegmentedImages,
    batches,
    borders,
    box_sides,
    draw_prompts,
    mask_costs,
    mask_ious,
    segment,
    validate,
)
from pipeline.vision.sam.settings import SamSettings
from pipeline.vision.tensors import boxes_of_masks
from stages.pretrain import sam as pretrain_sam
from stages.settings import PretrainSamSettings
from tests.training.cuda_determinism import Operators
from tests.training.resuming import check_resumed


def squares(count: int, size: int = 32) -> SegmentedImages:
    """Images of a road across open ground, and a house below it."""
    instances = np.zeros((size, size), dtype=np.uint16)
    land_cover = np.ones((size, size), dtype=np.uint8)
    instances[10:14], land_cover[10:14] = 4, 4
    instances[20:26, 6:16], land_cover[20:26, 6:16] = 9, 5
    segments, surfaces = segment(instances, land_cover)
    generator = torch.Generator().manual_seed(0)
    return SegmentedImages(
        images=torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8),
        land_cover=torch.from_numpy(land_cover).repeat(count, 1, 1),
        segments=torch.from_numpy(segments).repeat(count, 1, 1),
        surfaces=torch.from_numpy(surfaces).repeat(count, 1, 1),
    )


def test_segments_are_objects_and_connected_open_ground() -> None:
    segments = squares(1).segments[0]
    assert sorted(segments.unique().tolist()) == [-2, -1, 1, 2]
    assert (segments > 0).sum() == 4 * 32 + 6 * 10
    assert segments[0, 0] != segments[31, 31]
    assert len(segments[10:14].unique()) == 1


def test_an_image_full_of_objects_has_no_open_ground() -> None:
    segments, _ = segment(np.full((4, 4), 7, dtype=np.uint16), np.zeros((4, 4), dtype=np.uint8))
    assert (segments > 0).all()


def test_a_surface_joins_the_objects_of_a_class_that_touch() -> None:
    instances = np.array([[1, 1, 0], [0, 0, 2], [0, 0, 2]], dtype=np.uint16)
    land_cover = np.array([[4, 4, 1], [1, 1, 4], [1, 1, 4]], dtype=np.uint8)
    segments, surfaces = segment(instances, land_cover)
    assert segments[0, 1] != segments[1, 2]
    assert surfaces[0, 1] == surfaces[1, 2]
    # The open corner and the open rest touch by a corner only: two grounds, one surface.
    assert segments[0, 2] != segments[1, 1]
    assert surfaces[0, 2] == surfaces[1, 1]
    assert (surfaces > 0).all()


def test_targets_hold_their_points_and_boxes_hold_their_targets() -> None:
    batch = draw_prompts(squares(3), 5, 4, np.random.default_rng(0))
    assert batch.pixels.shape == (3, 3, 32, 32)
    assert batch.points.shape == (3, 5, 2)
    assert batch.boxes.shape == (3, 4, 4)
    assert batch.targets.shape == (3, 9, 2, 32, 32)
    for image in range(3):
        for prompt, (x, y) in enumerate(batch.points[image].tolist()):
            target, surface = batch.targets[image, 4 + prompt]
            assert target[y, x]
            assert surface[y, x]
            assert torch.equal(target, batch.segments[image] == batch.segments[image, y, x])
    exact = boxes_of_masks(batch.targets[:, :4, 0].flatten(0, 1)).view(3, 4, 4)
    sides = (exact[..., 2:] - exact[..., :2]).repeat(1, 1, 2)
    moved = (batch.boxes - exact).abs() / sides
    assert 0 < moved.max() < 0.5
    assert batch.boxes.min() >= 0
    assert batch.boxes.max() <= 32


def test_rotation_moves_images_and_maps_together() -> None:
    images = squares(1)
    rotated = images.rotated(1, True)
    assert torch.equal(rotated.images[0, 0], torch.rot90(images.images[0, 0]).flip(-1))
    assert torch.equal(rotated.segments[0], torch.rot90(images.segments[0]).flip(-1))
    assert torch.equal(rotated.surfaces[0], torch.rot90(images.surfaces[0]).flip(-1))
    assert torch.equal(rotated.land_cover[0], torch.rot90(images.land_cover[0]).flip(-1))


def test_batches_hold_every_image_once_and_repeat_themselves() -> None:
    images = squares(7)
    # Brightness tells the images apart, also after the changes of colour.
    images.images.copy_((torch.arange(7, dtype=torch.uint8) * 40)[:, None, None, None].expand_as(images.images))

    def run(seed: int) -> list[torch.Tensor]:
        return [batch.pixels for batch in batches(images, 3, 2, 1, np.random.default_rng(seed))]

    first, again, other = run(0), run(0), run(1)
    assert [len(pixels) for pixels in first] == [3, 3]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_small_segments_are_not_prompted_for() -> None:
    images = squares(1)
    images.segments[0, 0, 0] = 77
    batch = draw_prompts(images, 200, 0, np.random.default_rng(0))
    assert 77 not in batch.segments[0][batch.points[0, :, 1], batch.points[0, :, 0]]
    assert len(batch.segments[0][batch.points[0, :, 1], batch.points[0, :, 0]].unique()) == 4


def test_no_prompts_at_all() -> None:
    batch = draw_prompts(squares(2), 0, 0, np.random.default_rng(0))
    assert batch.targets.shape[1] == 0
    assert batch.points.shape == (2, 0, 2)


@pytest.mark.parametrize("area", [7, 8])
def test_the_smallest_segment_that_is_prompted_for_has_eight_pixels(area: int) -> None:
    images = squares(1)
    images.segments.zero_()
    images.segments[0, 0, :area] = 5
    batch = draw_prompts(images, 300, 0, np.random.default_rng(0))
    prompted = (batch.segments[0][batch.points[0, :, 1], batch.points[0, :, 0]] == 5).any()
    assert bool(prompted) == (area == 8)


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


def test_losses_have_gradients_in_all_used_parameters(model: SamPretraining) -> None:
    model.train()
    images = one_square()
    assert model.losses(draw_prompts(images, 0, 0, np.random.default_rng(0))).keys() == {"dense"}
    assert model.losses(draw_prompts(images, 0, 2, np.random.default_rng(0))).keys() == {"dense", "box", "iou"}
    losses = model.losses(draw_prompts(images, 3, 2, np.random.default_rng(0)))
    assert losses.keys() == {"dense", "box", "point", "iou"}
    assert all(value.isfinite() for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    # Neither masks nor background points are prompts here, and a softmax does not see the bias of its keys.
    unused = ("mask_downscaling", "point_embeddings.0", "k_proj.bias")
    assert {name for name in without if not any(pattern in name for pattern in unused)} == set()


def test_a_better_fitting_model_costs_less(model: SamPretraining) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = draw_prompts(one_square(), 4, 2, np.random.default_rng(0))
    totals = []
    with Operators() as ran:
        for _ in range(12):
            total = torch.stack(list(model.losses(batch).values())).sum()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]
    # What keeps its training from being deterministic on a GPU; with none, `stages/pretrain/sam` could be strict.
    assert ran.nondeterministic == {"cumsum", "nll_loss2d_forward"}


@pytest.mark.parametrize(("guess", "error"), [(1.0, 0.0), (0.75, 0.25)])
def test_perfect_masks_score_one(
    model: SamPretraining, monkeypatch: pytest.MonkeyPatch, guess: float, error: float
) -> None:
    images = one_square()

    def perfect(_: object, embeddings: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mask = (images.segments[0, ::2, ::2] > 0).float() - 0.5
        return mask.expand(1, prompts.shape[1], 4, -1, -1), torch.full((1, prompts.shape[1], 4), guess)

    monkeypatch.setattr(pretraining, "decode", perfect)
    assert validate(model, images) == {
        "point_iou": 1.0, "chosen_iou": 1.0, "box_iou": 1.0, "iou_error": error, "point_recall": 1.0
    }  # fmt: skip


def test_images_without_large_objects_are_skipped(model: SamPretraining) -> None:
    images = one_square()
    images.segments[:] = -1
    assert set(validate(model, images).values()) == {0.0}


def test_an_interrupted_training_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = PretrainSamSettings(
        world=WorldSettings(train=2, val=1, test=0, size=96, seed=3),
        epochs=2,
        dense_epochs=1,
        batch_size=2,
        points=2,
        boxes=1,
    )
    engine = EngineSettings(device="cpu", workers=1)

    def run(output: Path) -> Path:
        return pretrain_sam.run(settings, Paths.under(), engine=engine, output=output)

    whole = run(tmp_path / "whole.safetensors")
    history = json.loads((tmp_path / "whole.json").read_text())["validation"]
    assert [record["epoch"] for record in history] == [1, 2]
    assert "loss_point" not in history[0]
    assert "loss_point" in history[1]
    assert build_sam(SamSettings(weights=str(whole))).image_encoder.img_size == 128

    check_resumed(run, whole, tmp_path / ".work" / "pretrain-sam", pretrain_sam, monkeypatch)


def test_a_world_whose_size_is_no_multiple_of_the_patch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = PretrainSamSettings(world=WorldSettings(train=2, val=1, test=0, size=100), epochs=1)
    with pytest.raises(SettingsError, match="multiple of 8"):
        pretrain_sam.run(settings, Paths.under(), engine=EngineSettings(device="cpu", workers=1))
    assert not (tmp_path / ".work" / "worlds").exists()


def test_the_training_world_is_not_the_default_profiles() -> None:
    assert PretrainSamSettings().world.seed not in (0, 1_000_003)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the weights of `sagecc pretrain sam` are not there")
def test_the_sam_that_ships_is_small_and_loads() -> None:
    assert WEIGHTS.stat().st_size <= 3_500_000
    assert build_sam(SamSettings(weights=str(WEIGHTS))).image_encoder.img_size == 128
