"""The generation engine: greedy and beam search over all pairs at once, for any captioner that can take steps.

A sentence is a sequence of words that ends with the end token; its log-probability is the sum of its tokens'
under the model, the end included, and its score that sum divided by length^α. Each step extends the K live beams
of a pair by every word and ranks the results. Of the best K, those that end the sentence are finished and compete
for the n best; the best K of the others live on. At the greatest length every live beam has to end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.captioners.settings import GenerationSettings
from pipeline.datasets.vocabulary import END, PAD, START, UNK

_LOW = (1 << 32) - 1


def stable_topk(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest values of each row, best first; of equal values the earlier comes first.

    `torch.topk` leaves the order of equal values open, and a stable sort takes three times as long on a CPU. Here value
    and index are packed into one integer, of which no two are equal: the bits of a float32, made to sort like
    integers, above the index counted backwards.

    Args:
        values: (B, S) float32 without NaN.
        count: How many, at most S.

    Returns:
        Values and their indices in the row, both (B, count).
    """
    bits = (values + 0.0).view(torch.int32)  # + 0.0 makes −0.0 and 0.0 one
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    indices = torch.arange(values.shape[1], device=values.device)
    keys = (ordered << 32) + (_LOW - indices)
    best = keys.topk(count, dim=1).values
    chosen = _LOW - (best & _LOW)
    return values.gather(1, chosen), chosen


# Pairs that are done leave the batch once this share of it is done: each removal copies the remaining pairs.
_DONE_SHARE = 0.25


@dataclass(frozen=True)
class Hypothesis:
    """One generated caption.

    Attributes:
        tokens: Word ids behind the start token; the last is the end token.
        score: log_probability / len(tokens)^α, by which hypotheses are ranked.
        log_probability: Natural logarithm of the sentence's probability under the model.
    """

    tokens: tuple[int, ...]
    score: float
    log_probability: float


class EncodedPairs(Protocol):
    """What the engine has to know of a memory: the number of pairs, and its device."""

    def __len__(self) -> int: ...

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        ...


MemoryT = TypeVar("MemoryT", bound=EncodedPairs, contravariant=True)
StateT = TypeVar("StateT")


class StepwiseCaptioner(Protocol[MemoryT, StateT]):
    """What the engine asks of a captioner; the state between steps is the captioner's own."""

    def start(self, memory: MemoryT, beams: int, length: int) -> StateT:
        """Begin a search with `beams` beams for each pair and at most `length` words, the end token counted."""
        ...

    def step(self, state: StateT, tokens: Tensor, position: int) -> Tensor:
        """Return the logits (B, K, V) after the beams' newest tokens (B, K), which stand at `position`."""
        ...

    def reorder(self, state: StateT, parents: Tensor) -> None:
        """Let beam k of pair b continue what beam `parents[b, k]` holds."""
        ...

    def keep(self, state: StateT, pairs: Tensor) -> None:
        """Keep only the pairs at indices `pairs`, in that order."""
        ...


@torch.inference_mode()
def generate(
    model: StepwiseCaptioner[MemoryT, StateT], memory: MemoryT, settings: GenerationSettings
) -> list[list[Hypothesis]]:
    """Search for the captions of all pairs of `memory` at once.

    Args:
        model: A captioner in evaluation mode.
        memory: Encoded pairs.
        settings: Beams, lengths, penalty.

    Returns:
        For each pair its hypotheses, best first: `n_best` of them, fewer only where the model gives probability
        zero to everything else. Equal scores keep the order in which the sentences were finished, sentences
        finished together that of their beams.
    """
    length = settings.max_length - 1  # the start token is given
    search = _Search(len(memory), settings, memory.device)
    if not len(memory):
        return []
    state = model.start(memory, settings.beams, length)
    for position in range(length):
        logits = model.step(state, search.words, position)
        parents = search.advance(torch.log_softmax(logits.float(), dim=-1), position)
        remaining = search.retire()
        if not len(search):
            break
        model.reorder(state, parents)
        if remaining is not None:
            model.keep(state, remaining)
    return search.results()


class _Search:
    """Live beams and the best finished sentences of the pairs still searched for.

    Tensors, for B such pairs, K beams, n best and T words: `words` (B, K) newest tokens; `scores` (B, K)
    log-probabilities of the live beams, −∞ for none; `written` (B, K, T) their words; `best_scores`, `best_sums`
    (B, n) and `best_words` (B, n, T) the finished sentences, best first; `done` (B,).
    """

    def __init__(self, pairs: int, settings: GenerationSettings, device: torch.device) -> None:
        self.settings = settings
        self.length = settings.max_length - 1
        beams, best = settings.beams, settings.n_best
        self.words = torch.full((pairs, beams), START, device=device)
        self.scores = torch.full((pairs, beams), -torch.inf, device=device)
        self.scores[:, 0] = 0.0  # all beams start equal: one alone may have children
        self.written = torch.full((pairs, beams, self.length), PAD, device=device)
        self.best_scores = torch.full((pairs, best), -torch.inf, device=device)
        self.best_sums = torch.full((pairs, best), -torch.inf, device=device)
        self.best_words = torch.full((pairs, best, self.length), PAD, device=device)
        self.done = torch.zeros(pairs, dtype=torch.bool, device=device)
        self._rows = torch.arange(pairs, device=device)
        self._hypotheses: list[list[Hypothesis]] = [[] for _ in range(pairs)]

    def __len__(self) -> int:
        return len(self.words)

    def advance(self, log_probabilities: Tensor, position: int) -> Tensor:
        """Extend the live beams by the words at `position`; return the beams that the new ones continue, (B, K)."""
        beams, size = log_probabilities.shape[1:]
        last = position == self.length - 1
        totals = self._allowed(log_probabilities, position, last) + self.scores.unsqueeze(-1)
        # Each beam can end in one way only, so of the best 2K at least K go on.
        sums, indices = stable_topk(totals.flatten(1), 2 * beams)
        parents, words = indices // size, indices % size
        ended = words == END
        written = self.written.gather(1, parents.unsqueeze(-1).expand(-1, -1, self.length))
        written[:, :, position] = words
        finished = ended if last else ended & (torch.arange(2 * beams, device=ended.device) < beams)
        self._finish(sums.masked_fill(~finished, -torch.inf), written, position + 1)
        if beams == 1:  # greedy: the first sentence is the sentence
            self.done |= finished[:, 0]
        going = ended.byte().argsort(dim=1, stable=True)[:, :beams]
        self.words = words.gather(1, going)
        self.scores = sums.gather(1, going)
        self.written = written.gather(1, going.unsqueeze(-1).expand(-1, -1, self.length))
        if self.settings.early_stop:
            # Log-probabilities only fall and the divisor only grows to that of the greatest length.
            bound = self.scores.amax(dim=1) / self._divisor(self.length)
            self.done |= bound <= self.best_scores[:, -1]
        if last:
            self.done.fill_(True)
        return parents.gather(1, going)

    def retire(self) -> Tensor | None:
        """Remove pairs that are done, if they are many; return the indices of the remaining pairs, None for all."""
        alive = len(self) - int(self.done.sum())
        if alive > (1 - _DONE_SHARE) * len(self):
            return None
        done, remaining = self.done.nonzero().squeeze(1), (~self.done).nonzero().squeeze(1)
        self._collect(done)
        for name in ("words", "scores", "written", "best_scores", "best_sums", "best_words", "done", "_rows"):
            setattr(self, name, getattr(self, name)[remaining])
        return remaining

    def results(self) -> list[list[Hypothesis]]:
        """Return the finished sentences of each pair, best first."""
        return self._hypotheses

    def _allowed(self, log_probabilities: Tensor, position: int, last: bool) -> Tensor:
        if last:
            only = torch.full_like(log_probabilities, -torch.inf)
            only[:, :, END] = log_probabilities[:, :, END]
            return only
        allowed = log_probabilities.clone()
        # One at a time: a list of indices would be copied to the device for every word.
        allowed[:, :, PAD] = -torch.inf
        allowed[:, :, START] = -torch.inf
        if not self.settings.allow_unknown:
            allowed[:, :, UNK] = -torch.inf
        if position < self.settings.min_length:
            allowed[:, :, END] = -torch.inf
        return allowed

    def _finish(self, sums: Tensor, written: Tensor, length: int) -> None:
        sums = sums.masked_fill(self.done.unsqueeze(1), -torch.inf)
        scores = torch.cat([self.best_scores, sums / self._divisor(length)], dim=1)
        self.best_scores, chosen = stable_topk(scores, self.settings.n_best)
        self.best_sums = torch.cat([self.best_sums, sums], dim=1).gather(1, chosen)
        words = torch.cat([self.best_words, written], dim=1)
        self.best_words = words.gather(1, chosen.unsqueeze(-1).expand(-1, -1, self.length))

    def _collect(self, pairs: Tensor) -> None:
        rows, sums, words = (x[pairs].tolist() for x in (self._rows, self.best_sums, self.best_words))
        for row, row_sums, row_words in zip(rows, sums, words, strict=True):
            for total, ids in zip(row_sums, row_words, strict=True):
                if total > -torch.inf:
                    tokens = tuple(ids[: ids.index(END) + 1])
                    self._hypotheses[row].append(Hypothesis(tokens, total / self._divisor(len(tokens)), total))

    def _divisor(self, length: int) -> float:
        return float(length**self.settings.length_penalty)
