"""A captioner that is a table of probabilities: any prefix of any pair has its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from pipeline.captioners.generation import Hypothesis
from pipeline.datasets.vocabulary import END, START

Table = Callable[[int, tuple[int, ...]], list[float]]


def random_table(size: int, *, sharpness: float = 2.0, end: float = 0.0) -> Table:
    """Logits from N(0, sharpness²), a function of pair and words; `end` is added to the end token's."""

    def logits(pair: int, words: tuple[int, ...]) -> list[float]:
        drawn = np.random.default_rng([pair, len(words), *words]).normal(size=size) * sharpness
        drawn[END] += end
        return drawn.astype(np.float32).tolist()

    return logits


@dataclass
class Pairs:
    ids: list[int]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class Prefixes:
    ids: list[int]
    words: list[list[tuple[int, ...]]]


class TableCaptioner:
    def __init__(self, table: Table) -> None:
        self.table = table
        self.steps = 0
        self.batches: list[int] = []

    def start(self, memory: Pairs, beams: int, length: int) -> Prefixes:
        return Prefixes(list(memory.ids), [[()] * beams for _ in memory.ids])

    def step(self, state: Prefixes, tokens: torch.Tensor, position: int) -> torch.Tensor:
        self.steps += 1
        self.batches.append(len(tokens))
        for pair, row in enumerate(tokens.tolist()):
            for beam, token in enumerate(row):
                if position:
                    state.words[pair][beam] = (*state.words[pair][beam], token)
                else:
                    assert token == START
        assert all(len(words) == position for pair in state.words for words in pair)
        return torch.tensor(
            [[self.table(i, words) for words in pair] for i, pair in zip(state.ids, state.words, strict=True)]
        )

    def reorder(self, state: Prefixes, parents: torch.Tensor) -> None:
        state.words = [
            [pair[parent] for parent in row] for pair, row in zip(state.words, parents.tolist(), strict=True)
        ]

    def keep(self, state: Prefixes, pairs: torch.Tensor) -> None:
        state.ids = [state.ids[pair] for pair in pairs.tolist()]
        state.words = [state.words[pair] for pair in pairs.tolist()]

    def decode(self, memory: Pairs, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.tensor(
            [
                [self.table(memory.ids[row], tuple(words[1 : t + 1])) for t in range(len(words))]
                for words, row in zip(tokens.tolist(), rows.tolist(), strict=True)
            ]
        )


def log_softmax(logits: list[float]) -> np.ndarray:
    values = np.array(logits)
    return values - values.max() - np.log(np.exp(values - values.max()).sum())


def all_sentences(table: Table, pair: int, words: list[int], length: int, penalty: float) -> list[Hypothesis]:
    """Every sentence of at most `length` tokens made of `words` and the end token, best first."""
    hypotheses = []
    open_ = [((), 0.0)]
    for position in range(length):
        longer = []
        for prefix, total in open_:
            log_probabilities = log_softmax(table(pair, prefix))
            full = total + log_probabilities[END]
            hypotheses.append(Hypothesis((*prefix, END), full / (position + 1) ** penalty, full))
            longer += [((*prefix, word), total + log_probabilities[word]) for word in words]
        open_ = longer
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)


def check_same(hypotheses: Sequence[Hypothesis], expected: Sequence[Hypothesis], tolerance: float = 1e-4) -> None:
    assert [best.tokens for best in hypotheses] == [best.tokens for best in expected]
    for ours, theirs in zip(hypotheses, expected, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=tolerance)
        assert ours.log_probability == pytest.approx(theirs.log_probability, abs=tolerance)
