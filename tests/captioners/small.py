"""A captioner small enough for plain loops, with no weight left at its initial zero or one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipeline.captioners.sage_cc import SageCC
from pipeline.captioners.settings import SageCCSettings

SCENE = (6, 2, 3)
VOCABULARY = 11


def settings(scene: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None) -> SageCCSettings:
    return SageCCSettings.model_validate(
        {
            "scene": {"width": 8, "heads": 2, "blocks": 2, "channels": 12, **(scene or {})},
            "decoder": {"width": 8, "heads": 2, "layers": 2, "feedforward": 2, **(decoder or {})},
        }
    )


def make_model(
    scene: dict[str, Any] | None = None,
    decoder: dict[str, Any] | None = None,
    *,
    shape: tuple[int, int, int] = SCENE,
    vocabulary: int = VOCABULARY,
    seed: int = 0,
) -> SageCC:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SageCC(settings(scene, decoder), vocabulary, {"scenes": shape})
        stir(model)
    return model.eval()


def stir(model: nn.Module) -> None:
    """Move biases, norms and running statistics off the values at which they would do nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2.0)


def captions(count: int, length: int, *, vocabulary: int = VOCABULARY, seed: int = 0) -> torch.Tensor:
    tokens = torch.randint(4, vocabulary, (count, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = 2
    return tokens
