"""Two plain ways to search for captions, to judge the generation engine by.

`plain_generate` is written to be read: one pair at a time, Python lists, the whole caption through the model at every
word. `Recomputing` lets the engine itself run without a cache, so that a ratio to it is the cache's alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.captioners.generation import EncodedPairs, Hypothesis, MemoryT
from pipeline.captioners.settings import GenerationSettings
from pipeline.datasets.vocabulary import END, PAD, START, UNK


class TeacherForced(Protocol[MemoryT]):
    """A captioner that scores given captions."""

    def decode(self, memory: MemoryT, tokens: Tensor, rows: Tensor) -> Tensor:
        """Return the logits (N, T, V) of captions `tokens` (N, T) on pairs `rows` (N,)."""
        ...


@torch.inference_mode()
def plain_generate(
    model: TeacherForced[MemoryT], memory: MemoryT, row: int, settings: GenerationSettings
) -> list[Hypothesis]:
    """Search for the captions of one pair, by the rules of `pipeline.captioners.generation`, without stopping early.

    Args:
        model: A captioner in evaluation mode.
        memory: Encoded pairs.
        row: The pair in `memory`.
        settings: Beams, lengths, penalty.

    Returns:
        The `n_best` hypotheses, best first.
    """
    longest = settings.max_length - 1
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[Hypothesis] = []
    for position in range(longest):
        candidates: list[tuple[float, list[int]]] = []
        for total, words in live:
            given = torch.tensor([[START, *words]])
            logits = model.decode(memory, given, torch.tensor([row]))[0, -1]
            for word, log_probability in enumerate(torch.log_softmax(logits, dim=-1).tolist()):
                if _may_follow(word, position, longest, settings):
                    candidates.append((total + log_probability, [*words, word]))
        candidates.sort(key=lambda candidate: -candidate[0])
        candidates = [candidate for candidate in candidates if candidate[0] > -torch.inf]
        for total, words in candidates[: settings.beams]:
            if words[-1] == END:
                finished.append(Hypothesis(tuple(words), total / len(words) ** settings.length_penalty, total))
        live = [candidate for candidate in candidates if candidate[1][-1] != END][: settings.beams]
        if settings.beams == 1 and finished:
            break
    finished.sort(key=lambda hypothesis: -hypothesis.score)
    return finished[: settings.n_best]


def _may_follow(word: int, position: int, longest: int, settings: GenerationSettings) -> bool:
    if position == longest - 1:
        return word == END
    if word == END:
        return position >= settings.min_length
    return word not in (PAD, START) and (word != UNK or settings.allow_unknown)


AnyMemory = TypeVar("AnyMemory", bound=EncodedPairs)


@dataclass
class Prefixes(Generic[AnyMemory]):
    """The state of a search without a cache: everything written so far, (B, K, t), and the pairs it belongs to."""

    memory: AnyMemory
    rows: Tensor
    tokens: Tensor


class Recomputing(Generic[AnyMemory]):
    """A captioner that takes each step by decoding the whole prefix of every beam again.

    Args:
        model: The captioner whose `decode` does it.
    """

    def __init__(self, model: TeacherForced[AnyMemory]) -> None:
        self.model = model

    def start(self, memory: AnyMemory, beams: int, length: int) -> Prefixes[AnyMemory]:
        """Begin with nothing written."""
        pairs, device = len(memory), memory.device
        empty = torch.zeros((pairs, beams, 0), dtype=torch.long, device=device)
        return Prefixes(memory, torch.arange(pairs, device=device), empty)

    def step(self, state: Prefixes[AnyMemory], tokens: Tensor, position: int) -> Tensor:
        """Append the newest tokens (B, K) and return the logits behind them, (B, K, V)."""
        state.tokens = torch.cat([state.tokens, tokens.unsqueeze(-1)], dim=-1)
        beams = tokens.shape[1]
        logits = self.model.decode(state.memory, state.tokens.flatten(0, 1), state.rows.repeat_interleave(beams))
        return logits[:, -1].view(*tokens.shape, -1)

    def reorder(self, state: Prefixes[AnyMemory], parents: Tensor) -> None:
        """Permute the prefixes of each pair."""
        state.tokens = state.tokens.gather(1, parents.unsqueeze(-1).expand_as(state.tokens))

    def keep(self, state: Prefixes[AnyMemory], pairs: Tensor) -> None:
        """Drop the prefixes of all other pairs."""
        state.tokens, state.rows = state.tokens[pairs], state.rows[pairs]
