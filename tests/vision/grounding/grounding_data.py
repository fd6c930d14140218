"""Small random Grounding DINOs, the folder of the text encoder, and a small synthetic world."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from pipeline.datasets.world.settings import WorldSettings
from pipeline.execution.settings import EngineSettings
from pipeline.vision.grounding.model import GroundingDINO, GroundingLayout, build_grounding_dino
from pipeline.vision.grounding.settings import GroundingSettings

PRETRAINED = Path(__file__).parents[3] / "artifacts" / "pretrained"
TEXT_ENCODER = PRETRAINED / "grounding-dino-mini"

WORLD = WorldSettings(train=4, val=2, test=0, size=96, seed=3)
ENGINE = EngineSettings(device="cpu", workers=1)

PUBLISHED_LIKE = GroundingLayout(
    16, (1, 1, 1, 1), (1, 2, 2, 4), 4, heads=4, feed_forward=64, encoder_layers=2, decoder_layers=2, queries=30, size=64
)
"""Has all parts of the published variants (four stages, text enhancer, learned queries), but few parameters."""


@cache
def random_grounding_dino(layout: GroundingLayout | None = PUBLISHED_LIKE, seed: int = 1) -> GroundingDINO:
    """Return a model with random weights, none at an initial zero; it is shared and must not be changed."""
    model = build_grounding_dino(
        GroundingSettings(text_encoder=str(TEXT_ENCODER)), random_weights=True, seed=seed, layout=layout
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
        # Small text features make logits of a few units, so that scores differ.
        encoder = model.transformer.encoder
        last = encoder.text_layers[-1].norm2 if len(encoder.text_layers) else encoder.fusion_layers[-1].layer_norm_l
        last.weight.mul_(0.1)
    return model
