"""Siamese scene backbones: their interface, and torchvision ResNets without the classifier.

A backbone of another family is a subclass of `Backbone` in a module of its own and a line in
`pipeline.vision.scenes.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from pipeline.vision.scenes.registry import BACKBONES
from pipeline.vision.scenes.settings import BackboneSettings
from pipeline.weights import load_exactly, load_state_dict


class Backbone(nn.Module, ABC):
    """A convolutional image encoder; both dates go through the same weights.

    Attributes:
        channels: C, the width of the feature map.
        stride: Input pixels per feature cell.
    """

    channels: int
    stride: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to features (N, C, H/stride, W/stride)."""

    @abstractmethod
    def frozen_modules(self) -> tuple[nn.Module, ...]:
        """Return the early modules whose parameters fine-tuning does not train; empty: all are trained."""

    def adapt_state_dict(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a weight file's tensors under this module's names, without those that it does not use."""
        return dict(state)

    def freeze_early(self) -> None:
        """Exclude the parameters of `frozen_modules` from training."""
        for module in self.frozen_modules():
            module.requires_grad_(False)


class ResNetBackbone(Backbone):
    """A ResNet up to its last convolutional layer; the parameter names are torchvision's.

    Args:
        block: Residual block.
        layers: Blocks per layer, of three or four layers.
    """

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], layers: list[int]) -> None:
        super().__init__()
        resnet = ResNet(block, [*layers, 1][:4])
        self.conv1, self.bn1 = resnet.conv1, resnet.bn1
        self.relu, self.maxpool = resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3
        self.layer4 = resnet.layer4 if len(layers) == 4 else nn.Identity()
        self.channels = 64 * 2 ** (len(layers) - 1) * block.expansion
        self.stride = 4 * 2 ** (len(layers) - 1)

    def forward(self, images: Tensor) -> Tensor:
        """See `Backbone`."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features

    def frozen_modules(self) -> tuple[nn.Module, ...]:
        """Return the stem and layer1, which the authors' release freezes when it fine-tunes the backbone."""
        return self.conv1, self.bn1, self.layer1

    def adapt_state_dict(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors without those of the classifier, `fc`."""
        return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def mini() -> ResNetBackbone:
    """Build the mini backbone: without layer4, so that 128-pixel images give 8×8 cells, as 256 do for ResNet-101."""
    return ResNetBackbone(BasicBlock, [1, 1, 1])


def resnet18() -> ResNetBackbone:
    """Build a ResNet-18."""
    return ResNetBackbone(BasicBlock, [2, 2, 2, 2])


def resnet50() -> ResNetBackbone:
    """Build a ResNet-50."""
    return ResNetBackbone(Bottleneck, [3, 4, 6, 3])


def resnet101() -> ResNetBackbone:
    """Build a ResNet-101."""
    return ResNetBackbone(Bottleneck, [3, 4, 23, 3])


def build_backbone(name: str, weights: Path | None, *, seed: int = 0) -> Backbone:
    """Build a registered backbone in evaluation mode.

    Args:
        name: Its name in `BACKBONES`.
        weights: File of its weights, or None for a seeded random initialisation.
        seed: Seed of that initialisation.

    Raises:
        CheckpointError: The file is missing, damaged, or holds another model's weights.
        SettingsError: There is no backbone of that name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone: Backbone = BACKBONES.resolve(name)()
    if weights is not None:
        load_exactly(
            backbone,
            backbone.adapt_state_dict(load_state_dict(weights)),
            kind=f"a {name}",
            path=weights,
            fix="set models.backbone.backbone to the model that the file belongs to, or models.backbone.weights to "
            "another file",
        )
    return backbone.eval()


def backbone_stride(name: str) -> int:
    """Return the stride of a registered backbone without allocating its weights.

    Raises:
        SettingsError: There is no backbone of that name.
    """
    with torch.device("meta"):
        backbone: Backbone = BACKBONES.resolve(name)()
    return backbone.stride


def normalise(images: Tensor, settings: BackboneSettings) -> Tensor:
    """Resize RGB images (N, 3, H, W), 0–255 of any dtype, and scale them by mean and std; float32."""
    x = images.float()
    if settings.size is not None and x.shape[-2:] != (settings.size, settings.size):
        x = nn.functional.interpolate(
            x, size=(settings.size, settings.size), mode="bilinear", align_corners=False, antialias=True
        )
    mean = torch.tensor(settings.mean, device=x.device).view(1, 3, 1, 1)
    std = torch.tensor(settings.std, device=x.device).view(1, 3, 1, 1)
    return (x - mean) / std
