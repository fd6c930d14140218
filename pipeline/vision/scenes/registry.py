"""The scene backbones that settings may name; importing this loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.registry import Registry

if TYPE_CHECKING:
    from pipeline.vision.scenes.backbones import Backbone

BACKBONES: Registry[Callable[[], Backbone]] = Registry("scene backbone", where="models.backbone.backbone")
"""Factories of backbones with randomly initialised weights, by name."""

BACKBONES.register(
    "mini", "pipeline.vision.scenes.backbones:mini", "ships with the project, trained on the synthetic world"
)
BACKBONES.register("resnet18", "pipeline.vision.scenes.backbones:resnet18")
BACKBONES.register("resnet50", "pipeline.vision.scenes.backbones:resnet50")
BACKBONES.register("resnet101", "pipeline.vision.scenes.backbones:resnet101", "paper and release")
