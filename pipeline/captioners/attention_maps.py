"""Cross-attention of a captioner, word by word, on image cells, regions and graph nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.captioners.generation import EncodedPairs
from pipeline.captioners.inputs import Memory
from pipeline.datasets.vocabulary import PAD, START

MemoryT = TypeVar("MemoryT", bound=EncodedPairs, contravariant=True)


class AttentiveCaptioner(Protocol[MemoryT]):
    """A captioner that tells its cross-attention weights."""

    def cross_attention(self, memory: MemoryT, tokens: Tensor, rows: Tensor) -> Tensor:
        """Return the weights (N, T, layers, heads, S) of captions `tokens` (N, T) on pairs `rows` (N,)."""
        ...


@dataclass(frozen=True)
class AttentionMap:
    """Attention of the T words of one caption, the end token among them.

    Attributes:
        cells: (T, L, h, w) float32, the share of each decoder layer's cross-attention, averaged over its heads, that
            falls on each cell of the image grid. With fusion: release a cell is two tokens, X and X'; both count.
        change: M_map of the pair, (h, w) float32.
        parts: By "motion", "semantics" and "nodes", as far as the captioner reads them, (T, L, N) float32: for each
            region and node (in the order of `Evidence`; of semantic regions, those that `keep_best` keeps) its share
            of the cross-attention with fusion: release, and with fusion: paper its weight in F_disc, F_sem or F_kg,
            which is the same for all words and layers.
    """

    cells: Tensor
    change: Tensor
    parts: dict[str, Tensor]


@torch.inference_mode()
def attention_maps(
    model: AttentiveCaptioner[Memory], memory: Memory, captions: Sequence[Sequence[int]]
) -> list[AttentionMap]:
    """Return the attention of a caption of each of B pairs, by a second, teacher-forced pass.

    Args:
        model: A captioner in evaluation mode.
        memory: The encoded pairs.
        captions: The tokens of each one's caption, the end token last.
    """
    device, longest = memory.device, max(map(len, captions))
    given = torch.full((len(captions), longest), PAD, device=device)
    for row, tokens in enumerate(captions):
        given[row, : len(tokens)] = torch.tensor([START, *tokens[:-1]], device=device)
    weights = model.cross_attention(memory, given, torch.arange(len(captions), device=device)).mean(3)
    grid = memory.change.shape[1:]
    maps = []
    for row, tokens in enumerate(captions):
        parts = by_section(weights[row, : len(tokens)], memory)
        cells = parts.pop("image") + parts.pop("image attended", 0)
        for name, shares in memory.shares.items():
            parts[name] = shares[row].float().expand(*cells.shape[:2], -1)
        maps.append(AttentionMap(cells.unflatten(-1, grid), memory.change[row], parts))
    return maps


@torch.inference_mode()
def explain(model: AttentiveCaptioner[MemoryT], memory: MemoryT, tokens: Sequence[int], row: int = 0) -> Tensor:
    """Return the cross-attention of each head for each word of a generated caption.

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


def by_section(weights: Tensor, memory: Memory) -> dict[str, Tensor]:
    """Split weights of cross-attention by the sections of the memory.

    Args:
        weights: (…, S), as `explain` returns them.
        memory: The encoded pairs that they refer to.

    Returns:
        By the names of `memory.sections` in their order, (…, number of tokens): "image" and "image attended" have a
        weight for each of the h·w cells, "motion" and "semantics" for each region (0 where they pad), "nodes" for
        each node of the graph. All in "image" where the memory holds nothing else.
    """
    sections = memory.sections or (("image", weights.shape[-1]),)
    parts = weights.split([count for _, count in sections], dim=-1)
    return dict(zip((name for name, _ in sections), parts, strict=True))
