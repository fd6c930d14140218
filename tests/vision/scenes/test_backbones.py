from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from pipeline.checkpoints import CHECKPOINTS
from pipeline.errors import CheckpointError
from pipeline.vision.scenes.backbones import backbone_stride, build_backbone, normalise
from pipeline.vision.scenes.settings import BackboneSettings
from pipeline.weights import load_state_dict


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [("mini", 128, (256, 8, 8)), ("resnet18", 256, (512, 8, 8)), ("resnet101", 256, (2048, 8, 8))],
)
def test_shapes(name: str, size: int, shape: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, None)
        assert backbone(torch.empty(1, 3, size, size)).shape[1:] == shape
    assert backbone.channels == shape[0]
    assert backbone.stride == backbone_stride(name) == size // 8


def test_equals_torchvision_with_the_same_weights(tmp_path: Path) -> None:
    torch.manual_seed(3)
    reference = torchvision.models.resnet18(weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    backbone = build_backbone("resnet18", tmp_path / "resnet18.pth")
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        pooled = backbone(images).mean((2, 3))
        torch.testing.assert_close(reference.fc(pooled), reference(images))


def test_random_weights_are_seeded_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    one, two, other = (build_backbone("mini", None, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one.conv1.weight, two.conv1.weight)
    assert not torch.equal(one.conv1.weight, other.conv1.weight)


def test_only_layers_from_layer2_train_when_asked() -> None:
    backbone = build_backbone("mini", None)
    backbone.freeze_early()
    frozen = {name.split(".")[0] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file(build_backbone("mini", None).state_dict(), tmp_path / "mini.safetensors")
    with pytest.raises(CheckpointError, match="not a resnet18"):
        build_backbone("resnet18", tmp_path / "mini.safetensors")


class _Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("executed"),))


def test_pickles_are_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(_Exploit()))
    torch.save({"x": _Exploit()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(CheckpointError, match="cannot be read as plain tensors"):
            load_state_dict(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_damaged_or_missing_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state_dict(path)
    with pytest.raises(CheckpointError, match="not there"):
        load_state_dict(tmp_path / "none.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="not a state dict"):
        load_state_dict(tmp_path / "list.pth")
    with pytest.raises(CheckpointError) as caught:
        load_state_dict(tmp_path / CHECKPOINTS["resnet101"].file)
    assert "sagecc checkpoints fetch resnet101" in str(caught.value.fix)


def test_normalise_against_a_plain_loop() -> None:
    settings = BackboneSettings(mean=(10, 20, 30), std=(1, 2, 4))
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    result = normalise(torch.from_numpy(image).permute(2, 0, 1)[None], settings)
    for y in range(5):
        for x in range(6):
            for c in range(3):
                expected = (float(image[y, x, c]) - settings.mean[c]) / settings.std[c]
                assert result[0, c, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_normalise_resizes() -> None:
    images = torch.full((1, 3, 50, 40), 7, dtype=torch.uint8)
    result = normalise(images, BackboneSettings(size=64, mean=(0, 0, 0), std=(1, 1, 1)))
    assert result.shape == (1, 3, 64, 64)
    torch.testing.assert_close(result, torch.full_like(result, 7.0))
