"""What stands where the scene's tokens would, for pairs of which there are no scenes."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from pipeline.captioners.memory import Memory
from pipeline.captioners.settings import SceneEncoderSettings
from pipeline.errors import CheckpointError

NO_SCENES: Final = (0, 0, 0)
"""Shape (C, h, w) of one date's features where there are none."""


class LearnedScene(nn.Module):
    """Learned tokens, the same for every pair, in the place of E_img: a scene that is as before everywhere.

    Queries by which a fusion of tokens looks at the regions, and something to look at for a decoder whose fusion is
    one vector. They are drawn from torch's global generator; seed it around the construction.

    Args:
        settings: Number of tokens n.
        channels: Channels C_e of the tokens.
    """

    def __init__(self, settings: SceneEncoderSettings, channels: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(settings.learned_tokens, channels))

    def forward(self, scenes: Tensor) -> Memory:
        """Return the tokens for each of B pairs, in a grid of 1 × n without change.

        Args:
            scenes: (B, 2, 0, 0, 0): it tells how many pairs there are.

        Raises:
            CheckpointError: There are features in it.
        """
        if tuple(scenes.shape[1:]) != (2, *NO_SCENES):
            raise CheckpointError(
                f"the captioner takes no scenes, given features {tuple(scenes.shape)}",
                where="scene features",
                fix="train it with captioner.scene.features: cached to describe scenes",
            )
        pairs, count = len(scenes), len(self.tokens)
        change = torch.zeros(pairs, 1, count, device=self.tokens.device)
        return Memory(self.tokens.expand(pairs, -1, -1), change=change, consistency=1 - change)
