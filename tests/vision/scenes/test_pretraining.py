from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.datasets.world.settings import WorldSettings
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from pipeline.vision.scenes.backbones import build_backbone
from pipeline.vision.scenes.pretraining import ScenePairs, ScenePretraining, batches, validate
from pipeline.vision.scenes.settings import BackboneSettings
from stages.pretrain import scenes as pretrain_scenes
from stages.settings import PretrainScenesSettings
from tests.training.cuda_determinism import Operators
from tests.training.resuming import check_resumed


def random_pairs(count: int, size: int = 64) -> ScenePairs:
    generator = torch.Generator().manual_seed(0)
    return ScenePairs(
        images=torch.randint(0, 256, (count, 2, 3, size, size), generator=generator, dtype=torch.uint8),
        land_cover=torch.randint(0, 8, (count, 2, size, size), generator=generator, dtype=torch.uint8),
        centres=torch.rand((count, 2, size, size), generator=generator) > 0.99,
        change=torch.rand((count, size, size), generator=generator) > 0.9,
    )


@pytest.fixture
def model() -> ScenePretraining:
    torch.manual_seed(0)
    return ScenePretraining(build_backbone("mini", None), 8, BackboneSettings())


def test_shapes(model: ScenePretraining) -> None:
    land_cover, centres, change = model(random_pairs(2).images)
    assert land_cover.shape == (2, 2, 8, 16, 16)
    assert centres.shape == (2, 2, 16, 16)
    assert change.shape == (2, 16, 16)


def test_a_gpu_can_train_it_deterministically(model: ScenePretraining) -> None:
    with Operators() as ran:
        torch.stack(list(model.train().losses(random_pairs(2)).values())).sum().backward()
        validate(model, random_pairs(2), 2)
    assert not ran.nondeterministic


def test_land_cover_loss_against_a_plain_loop(model: ScenePretraining) -> None:
    model.eval()
    pairs = random_pairs(1)
    with torch.inference_mode():
        loss = model.losses(pairs)["land_cover"].item()
        log_shares = model(pairs.images)[0].log_softmax(2)
    total = 0.0
    for date in range(2):
        for row in range(16):
            for column in range(16):
                cell = pairs.land_cover[0, date, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten()
                total += sum(-log_shares[0, date, int(name), row, column].item() for name in cell) / 16
    assert loss == pytest.approx(total / 512, rel=1e-5)


def test_rotation_moves_images_and_targets_together() -> None:
    pairs = random_pairs(1)
    rotated = pairs.rotated(1, True)
    assert torch.equal(rotated.images[0, 0, 0], torch.rot90(pairs.images[0, 0, 0]).flip(-1))
    assert torch.equal(rotated.change[0], torch.rot90(pairs.change[0]).flip(-1))


def test_batches_hold_every_pair_once() -> None:
    pairs = ScenePairs(*(tensor[:, ...] for tensor in vars(random_pairs(7)).values()))
    pairs.images[:, 0, 0] = torch.arange(7, dtype=torch.uint8)[:, None, None]
    seen = [int(value) for part in batches(pairs, 3, np.random.default_rng(0)) for value in part.images[:, 0, 0, 0, 0]]
    assert len(seen) == 6
    assert len(set(seen)) == 6


def test_a_perfect_answer_scores_one(model: ScenePretraining, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = random_pairs(2)
    pairs.land_cover.copy_(pairs.land_cover[..., ::4, ::4].repeat_interleave(4, -1).repeat_interleave(4, -2))
    pairs.change.copy_(pairs.change[..., ::4, ::4].repeat_interleave(4, -1).repeat_interleave(4, -2))

    def answer(_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        one_hot = torch.nn.functional.one_hot(pairs.land_cover[..., ::4, ::4].long(), 8).movedim(-1, 2).float()
        centres = torch.nn.functional.max_pool2d(pairs.centres.float(), 4) - 0.5
        return one_hot, centres, pairs.change[..., ::4, ::4].float() - 0.5

    monkeypatch.setattr(model, "forward", answer)
    assert validate(model, pairs, 2) == {"land_cover_miou": 1.0, "centres_f1": 1.0, "change_f1": 1.0}


def test_an_interrupted_training_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = PretrainScenesSettings(
        world=WorldSettings(train=4, val=2, test=0, size=96, seed=3), epochs=2, batch_size=2
    )
    engine = EngineSettings(device="cpu", workers=1)

    def run(output: Path) -> Path:
        return pretrain_scenes.run(settings, Paths.under(), engine=engine, output=output)

    whole = run(tmp_path / "whole.safetensors")
    history = json.loads((tmp_path / "whole.json").read_text())["validation"]
    assert [record["epoch"] for record in history] == [1, 2]
    assert build_backbone("mini", whole).channels == 256

    check_resumed(run, whole, tmp_path / ".work" / "pretrain-scenes", pretrain_scenes, monkeypatch)


def test_the_backbone_that_ships_is_small_and_loads() -> None:
    path = Path(__file__).parents[3] / "artifacts" / "pretrained" / "scenes-mini.safetensors"
    assert path.stat().st_size <= 3_000_000
    assert build_backbone("mini", path).stride == 16
