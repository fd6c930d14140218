"""A backbone of another family costs a class and a line in the registry, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.cache.reader import Cache
from pipeline.config import parse_section
from pipeline.datasets.records import read_prepared
from pipeline.errors import CheckpointError, SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.training.model import ImageFront
from pipeline.vision.scenes.backbones import Backbone, backbone_stride, build_backbone, normalise
from pipeline.vision.scenes.registry import BACKBONES
from pipeline.vision.scenes.settings import BackboneSettings
from pipeline.vision.scenes.worker import SCHEMA
from stages import scenes
from stages.settings import ScenesSettings
from tests.places import at
from tests.worlds.scene_data import make_data


class Patches(Backbone):
    """Non-overlapping patches of 8×8 pixels, and a normalised projection of each."""

    channels = 12
    stride = 8

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), nn.BatchNorm2d(6))
        self.mixing = nn.Sequential(nn.Conv2d(6, 12, 1), nn.BatchNorm2d(12))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.mixing(self.patches(images))
        return features

    def frozen_modules(self) -> tuple[nn.Module, ...]:
        return (self.patches,)


@pytest.fixture(autouse=True)
def patches() -> Iterator[None]:
    BACKBONES.register("patches", f"{__name__}:Patches", "a toy")
    yield
    BACKBONES.unregister("patches")


def test_stage_scenes_runs_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepared, mini = make_data(tmp_path, 2)
    weights = tmp_path / "patches.safetensors"
    save_file(build_backbone("patches", None, seed=3).state_dict(), weights)
    settings = parse_section(
        {**mini.model_dump(), "backbone": "patches", "weights": str(weights)}, "scenes", ScenesSettings
    )
    path = scenes.run(
        settings,
        at(prepared=prepared, scenes=tmp_path / "scenes.h5"),
        engine=EngineSettings(device="cpu"),
    )
    backbone = build_backbone("patches", weights)
    data = read_prepared(prepared)
    with Cache.open(path, SCHEMA) as cache:
        for image in data.images():
            pixels = torch.from_numpy(np.array(Image.open(image.path))).permute(2, 0, 1)[None]
            with torch.inference_mode():
                expected = backbone(normalise(pixels, settings))[0].half().numpy()
            row = cache.row("features", image.unit)
            assert row.shape == (12, 4, 4)
            np.testing.assert_allclose(row, expected, atol=2e-3)


def test_its_stride_is_known_without_weights() -> None:
    assert backbone_stride("patches") == 8


def test_finetuning_freezes_what_it_says() -> None:
    front = ImageFront(BackboneSettings(backbone="patches"), None, "trained").train()
    frozen = {name for name, parameter in front.backbone.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in front.backbone.named_parameters() if name.startswith("patches.")}
    norms = {
        name: module.training for name, module in front.backbone.named_modules() if isinstance(module, nn.BatchNorm2d)
    }
    assert norms == {"patches.1": False, "mixing.1": True}


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    save_file(build_backbone("mini", None).state_dict(), tmp_path / "mini.safetensors")
    with pytest.raises(CheckpointError, match="not a patches"):
        build_backbone("patches", tmp_path / "mini.safetensors")


def test_unknown_name_is_told_with_all_names() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_section({"backbone": "resnet102"}, "scenes", ScenesSettings)
    assert "`scenes.backbone`: unknown scene backbone, did you mean resnet101?" in str(caught.value)
    assert "choose one of mini, resnet18, resnet50, resnet101, patches (given: 'resnet102')" in str(caught.value)
    with pytest.raises(SettingsError, match="unknown scene backbone"):
        build_backbone("resnet102", None)


def test_name_that_is_taken_is_refused() -> None:
    with pytest.raises(SettingsError, match="two definitions of the scene backbone 'mini'"):
        BACKBONES.register("mini", f"{__name__}:Patches")


def test_every_registered_name_resolves() -> None:
    for name in BACKBONES:
        assert backbone_stride(name) in (8, 16, 32)


def test_help_of_the_setting_names_all_without_torch() -> None:
    code = (
        "import sys; from pipeline.vision.scenes.settings import BackboneSettings; "
        "print(BackboneSettings.model_fields['backbone'].description); assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == (
        "mini (ships with the project, trained on the synthetic world), resnet18, resnet50, resnet101 "
        "(paper and release)"
    )
