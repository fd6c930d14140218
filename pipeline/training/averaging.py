"""A running average of a model's weights, which generalises better than the last weights and depends less on chance.

Polyak & Juditsky (1992), in the exponential form, with a shorter memory at the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """ā ← d ā + (1 − d) w after every step n, d = min(decay, (1 + n) / (10 + n)).

    Statistics of batch norms are averaged like weights; what is no floating-point number is the latest.

    Args:
        decay: 0 keeps no average.

    Attributes:
        values: The average by name; empty without one, or before the first step.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take the weights after step `step`, counted from 0 over the whole training, into the average."""
        if not self.decay:
            return
        state = model.state_dict()
        if not self.values:
            self.values = {name: tensor.detach().clone() for name, tensor in state.items()}
            return
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        floating = [name for name, tensor in state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.values[name] for name in floating], [state[name] for name in floating], share)
        for name in state.keys() - set(floating):
            self.values[name].copy_(state[name])

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Give `model` the average, if there is one, while the block runs; afterwards it has its own weights again."""
        if not self.values:
            yield
            return
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.values)
        try:
            yield
        finally:
            model.load_state_dict(own)
