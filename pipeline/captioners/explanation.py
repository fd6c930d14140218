"""Where a captioner looked when it chose each word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.captioners.generation import EncodedPairs
from pipeline.language.vocabulary import START

MemoryT = TypeVar("MemoryT", bound=EncodedPairs, contravariant=True)


class AttentiveCaptioner(Protocol[MemoryT]):
    """A captioner that tells its cross-attention weights."""

    def cross_attention(self, memory: MemoryT, tokens: Tensor, rows: Tensor) -> Tensor:
        """Return the weights (N, T, layers, heads, h·w) of captions `tokens` (N, T) on pairs `rows` (N,)."""
        ...


@torch.inference_mode()
def explain(model: AttentiveCaptioner[MemoryT], memory: MemoryT, tokens: Sequence[int], row: int = 0) -> Tensor:
    """Return where the model looked for each word of a generated caption, by a second, teacher-forced pass.

    Args:
        model: A captioner in evaluation mode.
        memory: The encoded pairs of which the caption's is one.
        tokens: A hypothesis' tokens, T of them, the end token last.
        row: The caption's pair in `memory`.

    Returns:
        (T, layers, heads, h·w) float32; the weights of each head sum to 1, row t belongs to `tokens[t]`.
    """
    given = torch.tensor([[START, *tokens[:-1]]], device=memory.device)
    return model.cross_attention(memory, given, torch.tensor([row], device=memory.device))[0]
