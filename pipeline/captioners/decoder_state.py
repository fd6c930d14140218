"""What a decoder keeps between two words: the keys and values of images and of earlier words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CrossContext:
    """What one decoder layer sees of the scene.

    Attributes:
        keys: (N, H, S, d).
        values: (N, H, S, d).
        bias: The spatial bias b of equation (18), (N, 1, 1, S) float32, −∞ at tokens that pad; None without.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None

    def select(self, rows: Tensor) -> CrossContext:
        """Return the context of rows `rows`, (M,) integers."""
        return CrossContext(
            keys=self.keys[rows], values=self.values[rows], bias=None if self.bias is None else self.bias[rows]
        )


class DecoderState:
    """Preallocated cache of a beam search over B pairs of K beams each.

    The beams of one pair are queries of one attention: they share the pair's image keys without a copy, and the
    keys of earlier words lie in one buffer per pair, slot `t·K + k` holding word t of the beam that was k-th then.
    Which slot belongs to whose past is told by a small table of ancestors, and only that table is permuted when
    beams change places; keys and values never move.

    Args:
        cross: The scene as each layer sees it, B rows.
        condition: r as an addend, (B, 1, D), or None.
        beams: K.
        length: Most words that will be generated.
    """

    def __init__(self, cross: list[CrossContext], condition: Tensor | None, beams: int, length: int) -> None:
        self.cross = cross
        self.condition = condition
        self.beams = beams
        pairs, heads, _, channels = cross[0].keys.shape
        shape = (pairs, heads, beams * length, channels)
        device, dtype = cross[0].keys.device, cross[0].keys.dtype
        # Zeros, not garbage: a masked slot still meets a zero weight, and 0 · NaN is NaN.
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in cross]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in cross]
        self.ancestors = torch.zeros((pairs, beams, length), device=device, dtype=torch.long)
        self._slots = torch.arange(beams, device=device)

    def begin(self, position: int) -> Tensor | None:
        """Open the slots of word `position`; return who sees which slot, (B, 1, K, (position + 1)·K) boolean.

        None stands for "all see all", which is so with one beam.
        """
        if self.beams == 1:
            return None
        self.ancestors[:, :, position] = self._slots
        seen: Tensor = self.ancestors[:, :, : position + 1, None] == self._slots
        return seen.flatten(2).unsqueeze(1)

    def append(self, layer: int, position: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's keys and values of the beams' newest words, (B, H, K, d); return all until now."""
        start, stop = position * self.beams, (position + 1) * self.beams
        self.keys[layer][:, :, start:stop] = keys
        self.values[layer][:, :, start:stop] = values
        return self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]

    def reorder(self, parents: Tensor) -> None:
        """Let beam k of each pair continue what beam `parents[b, k]` has written; `parents` is (B, K)."""
        if self.beams > 1:
            self.ancestors = self.ancestors.gather(1, parents.unsqueeze(-1).expand_as(self.ancestors))

    def keep(self, pairs: Tensor) -> None:
        """Forget all pairs but `pairs`, (B',) indices."""
        self.cross = [context.select(pairs) for context in self.cross]
        self.condition = None if self.condition is None else self.condition[pairs]
        self.keys = [keys[pairs] for keys in self.keys]
        self.values = [values[pairs] for values in self.values]
        self.ancestors = self.ancestors[pairs]
