"""What an encoder hands to a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """Encoded pairs, from which captions are decoded.

    Attributes:
        tokens: X = flatten(E_img) of equation (6), (B, h·w, C_e), row by row; a fusion by tokens appends others, so
            that they are (B, S, C_e).
        change: M_map of section 3.2, (B, h, w) float32 in [0, 1]; 0 where nothing changed.
        consistency: C_map = 1 − M_map, (B, h, w) float32.
        condition: r of equation (17), (B, D); None where nothing but the scene is known.
        mask: (B, S) boolean, False at tokens that pad; None where there are none such.
        sections: What the tokens are, in their order: names and numbers of tokens, the image's h·w first; empty
            where the tokens are the image's alone.
        shares: With r, how much each of the regions and nodes counts in it, (B, N) by "motion", "semantics", "nodes".
    """

    tokens: Tensor
    change: Tensor
    consistency: Tensor
    condition: Tensor | None = None
    mask: Tensor | None = None
    sections: tuple[tuple[str, int], ...] = ()
    shares: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.tokens.device

    def select(self, rows: Tensor) -> Memory:
        """Return the memory of pairs `rows`, (N,) integers; a pair may come several times."""
        return Memory(
            tokens=self.tokens[rows],
            change=self.change[rows],
            consistency=self.consistency[rows],
            condition=None if self.condition is None else self.condition[rows],
            mask=None if self.mask is None else self.mask[rows],
            sections=self.sections,
            shares={name: weights[rows] for name, weights in self.shares.items()},
        )
