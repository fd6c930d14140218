"""The scene backbones that settings may name; importing this loads no torch."""

from __future__ import annotations

from typing import Any

from pipeline.registry import Registry

BACKBONES: Registry[Any] = Registry("scene backbone", where="models.backbone.backbone")
"""By name, a class or function without arguments that returns a `pipeline.vision.scenes.backbones.Backbone`."""

BACKBONES.register(
    "mini", "pipeline.vision.scenes.backbones:mini", "ships with the project, trained on the synthetic world"
)
BACKBONES.register("resnet18", "pipeline.vision.scenes.backbones:resnet18")
BACKBONES.register("resnet50", "pipeline.vision.scenes.backbones:resnet50")
BACKBONES.register("resnet101", "pipeline.vision.scenes.backbones:resnet101", "paper and release")
