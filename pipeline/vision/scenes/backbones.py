"""Siamese scene backbones: torchvision ResNets without their classifier, and the mini one that ships."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from pipeline.vision.scenes.settings import BackboneName, BackboneSettings
from pipeline.weights import load_exactly, load_state_dict

# Blocks per layer. The mini backbone ends after layer3: stride 16, so a 128-pixel image gives the 8×8 grid that
# ResNet-101 gives at 256 pixels.
_LAYOUTS: dict[BackboneName, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    "mini": (BasicBlock, [1, 1, 1]),
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}


class SceneBackbone(nn.Module):
    """A ResNet up to its last convolutional layer; both dates go through the same weights.

    The parameter names are torchvision's, so published state dicts load as they are.

    Attributes:
        channels: C, the width of the feature map.
        stride: Input pixels per feature cell.
    """

    def __init__(self, name: BackboneName) -> None:
        super().__init__()
        block, layers = _LAYOUTS[name]
        resnet = ResNet(block, [*layers, 1][:4])
        self.conv1, self.bn1 = resnet.conv1, resnet.bn1
        self.relu, self.maxpool = resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3
        self.layer4 = resnet.layer4 if len(layers) == 4 else nn.Identity()
        self.channels = 64 * 2 ** (len(layers) - 1) * block.expansion
        self.stride = 4 * 2 ** (len(layers) - 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to features (N, C, H/stride, W/stride)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features

    def train_from_layer2(self) -> None:
        """Freeze the stem and layer1, as the authors' release does when it fine-tunes the backbone."""
        for part in (self.conv1, self.bn1, self.layer1):
            part.requires_grad_(False)


def build_backbone(name: BackboneName, weights: Path | None, *, seed: int = 0) -> SceneBackbone:
    """Build a backbone in evaluation mode.

    Args:
        name: Which layout.
        weights: File of its weights, or None for a seeded random initialisation.
        seed: Seed of that initialisation.

    Raises:
        CheckpointError: The file is missing, damaged, or holds another model's weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = SceneBackbone(name)
    if weights is not None:
        state = {key: value for key, value in load_state_dict(weights).items() if not key.startswith("fc.")}
        load_exactly(
            backbone,
            state,
            kind=f"a {name}",
            path=weights,
            fix="set scenes.backbone to the model that the file belongs to, or scenes.weights to another file",
        )
    return backbone.eval()


def normalise(images: Tensor, settings: BackboneSettings) -> Tensor:
    """Bring RGB images (N, 3, H, W), 0–255 of any dtype, to the backbone's size and scale, as float32."""
    x = images.float()
    if settings.size is not None and x.shape[-2:] != (settings.size, settings.size):
        x = nn.functional.interpolate(
            x, size=(settings.size, settings.size), mode="bilinear", align_corners=False, antialias=True
        )
    mean = torch.tensor(settings.mean, device=x.device).view(1, 3, 1, 1)
    std = torch.tensor(settings.std, device=x.device).view(1, 3, 1, 1)
    return (x - mean) / std
