"""Where a captioner looked when it chose each word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.captioners.generation import EncodedPairs
from pipeline.captioners.memory import Memory
from pipeline.language.vocabulary import START

MemoryT = TypeVar("MemoryT", bound=EncodedPairs, contravariant=True)


class AttentiveCaptioner(Protocol[MemoryT]):
    """A captioner that tells its cross-attention weights."""

    def cross_attention(self, memory: MemoryT, tokens: Tensor, rows: Tensor) -> Tensor:
        """Return the weights (N, T, layers, heads, S) of captions `tokens` (N, T) on pairs `rows` (N,)."""
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
        (T, layers, heads, S) float32; the weights of each head sum to 1, row t belongs to `tokens[t]`. S is the grid's
        h·w; where a fusion gave the memory further tokens, `by_section` takes it apart.
    """
    given = torch.tensor([[START, *tokens[:-1]]], device=memory.device)
    return model.cross_attention(memory, given, torch.tensor([row], device=memory.device))[0]


def by_section(looked: Tensor, memory: Memory) -> dict[str, Tensor]:
    """Take weights of cross-attention apart by what was looked at.

    Args:
        looked: (…, S), as `explain` returns them.
        memory: The encoded pairs that were looked at.

    Returns:
        By the names of `memory.sections` in their order, (…, number of tokens): "image" and "image attended" have a
        weight for each of the h·w cells, "motion" and "semantics" for each region (0 where they pad), "nodes" for
        each node of the graph. All in "image" where the memory holds nothing else.
    """
    sections = memory.sections or (("image", looked.shape[-1]),)
    parts = looked.split([count for _, count in sections], dim=-1)
    return dict(zip((name for name, _ in sections), parts, strict=True))
