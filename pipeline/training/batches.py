"""From settings, seed and epoch to the batches of the training loop.

The learning rate and the order of the pairs are pure functions; captions are one table of token ids; a loader gathers
the planned inputs, ahead of the step where that takes time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.training.settings import CaptionsPerPair
from pipeline.training.stores import Store


def learning_rate(start: float, epoch: int, *, every: int, factor: float) -> float:
    """Return the learning rate of `epoch` (from 0): `start · factor^⌊epoch / every⌋` (paper, section 4.1)."""
    return start * factor ** (epoch // every)


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """Return the seed of the random draws (dropout) of one step: 63 bits, a function of its arguments alone.

    Because each step is seeded afresh, a run that goes on in the middle of an epoch draws what it would have drawn.
    """
    state = np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


@dataclass(frozen=True)
class Step:
    """Which pairs and captions one step learns from.

    Attributes:
        pairs: (B,) int64 positions of pairs.
        captions: (N,) int64 rows of the caption table.
        owners: (N,) int64 in [0, B): the pair, within this step, that each caption describes.
        width: Tokens of the longest of these captions.
    """

    pairs: NDArray[np.int64]
    captions: NDArray[np.int64]
    owners: NDArray[np.int64]
    width: int


def plan_epoch(
    table: CaptionTable,
    *,
    batch_size: int,
    captions_per_pair: CaptionsPerPair,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
) -> list[Step]:
    """Plan the steps of one epoch: every sample once, in an order drawn from (seed, epoch).

    Args:
        table: The captions of the pairs; every pair has at least one.
        batch_size: Samples per step over all devices.
        captions_per_pair: What a sample is; see `samples_of`.
        seed: Seed of the run.
        epoch: Counts from 0.
        rank: Which of `world` devices this is; a step's samples are dealt out to them in turn.
        world: Number of devices. A step with fewer samples than devices repeats samples, so that none is idle.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(samples_of(table, captions_per_pair))
    drawn = None
    if captions_per_pair == "one":
        drawn = table.offsets[:-1] + (random.random(len(table)) * table.counts).astype(np.int64)
    steps = []
    for start in range(0, len(order), batch_size):
        samples = order[start : start + batch_size]
        if len(samples) < world:
            samples = np.resize(samples, world)
        samples = samples[rank::world]
        steps.append(plan_captions(table, samples) if captions_per_pair == "each" else plan_step(table, samples, drawn))
    return steps


def samples_of(table: CaptionTable, captions_per_pair: CaptionsPerPair) -> int:
    """Return how many samples an epoch has: the pairs, with `each` the captions."""
    return len(table.tokens) if captions_per_pair == "each" else len(table)


def plan_step(table: CaptionTable, pairs: NDArray[np.int64], drawn: NDArray[np.int64] | None = None) -> Step:
    """Plan one step over `pairs`, with the caption `drawn` for each pair of the table, or with all their captions."""
    if drawn is not None:
        captions, owners = drawn[pairs], np.arange(len(pairs))
    else:
        counts = table.counts[pairs]
        owners = np.repeat(np.arange(len(pairs)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        captions = table.offsets[pairs][owners] + within
    return Step(pairs, captions, owners, int(table.lengths[captions].max()))


def plan_captions(table: CaptionTable, captions: NDArray[np.int64]) -> Step:
    """Plan one step over `captions`, each with its pair, which comes again with each caption of it in the step."""
    pairs = np.searchsorted(table.offsets, captions, side="right") - 1
    return Step(pairs, captions, np.arange(len(captions)), int(table.lengths[captions].max()))


def plan_in_order(table: CaptionTable, batch_size: int) -> Sequence[Step]:
    """Plan one pass over all pairs in their own order with all captions, as validation reads them."""
    positions = np.arange(len(table))
    return [plan_step(table, positions[start : start + batch_size]) for start in range(0, len(positions), batch_size)]


class Encoder(Protocol):
    """What turns a caption into token ids, start and end included: a vocabulary."""

    def encode(self, caption: str) -> Sequence[int]:
        """Return the token ids of `caption`."""


@dataclass(frozen=True)
class CaptionTable:
    """All captions of P pairs; pair p owns rows `offsets[p]` to `offsets[p + 1]`.

    Attributes:
        tokens: (K, T) int32 ids, from the start token to the end token, then padding (0).
        lengths: (K,) int64 tokens of each caption.
        offsets: (P + 1,) int64.
    """

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Captions of each pair (P,)."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1


def caption_table(captions: Sequence[Sequence[str]], vocabulary: Encoder) -> CaptionTable:
    """Encode the captions of each pair.

    Raises:
        DataError: A caption is longer than the vocabulary's limit.
        ValueError: A pair has no caption; such pairs are to be left out beforehand.
    """
    if not all(captions):
        raise ValueError("a pair without captions cannot be trained on")
    encoded = [vocabulary.encode(caption) for group in captions for caption in group]
    lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
    tokens = np.zeros((len(encoded), int(lengths.max(initial=0))), dtype=np.int32)
    for row, ids in enumerate(encoded):
        tokens[row, : len(ids)] = ids
    offsets = np.concatenate([[0], np.cumsum([len(group) for group in captions])]).astype(np.int64)
    return CaptionTable(tokens, lengths, offsets)


_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """What one step computes on, on the device.

    Attributes:
        inputs: By the name of their source, the inputs of B pairs.
        tokens: (N, T) int64 captions from start to end token, padded with 0.
        owners: (N,) int64 in [0, B): the pair of each caption.
        pairs: B.
    """

    inputs: dict[str, Any]
    tokens: Tensor
    owners: Tensor
    pairs: int


class BatchLoader:
    """Turns planned steps into batches.

    Args:
        stores: The inputs of the pairs, by the name of their source.
        captions: See below.
        device: Where batches are put.

    Attributes:
        captions: The captions of the pairs, from which steps are planned.
        waited: Seconds for which the loop has waited for batches so far, gathers on a CPU included.
    """

    def __init__(self, stores: Mapping[str, Store[Any]], captions: CaptionTable, device: torch.device) -> None:
        self.waited = 0.0
        self._stores = dict(stores)
        self._device = device
        self.captions = captions
        self._tokens = torch.from_numpy(captions.tokens).to(device)

    def batches(self, steps: Sequence[Step]) -> Iterator[Batch]:
        """Yield the batch of each step, in order; close the iterator to stop early."""
        if not any(store.prefetch for store in self._stores.values()):
            for step in steps:
                start = time.perf_counter()
                batch = self.assemble(step, self._gather(step))
                self.waited += time.perf_counter() - start
                yield batch
            return
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
            pending: list[Future[dict[str, Any]]] = [reader.submit(self._gather, step) for step in steps[:_AHEAD]]
            try:
                for index, step in enumerate(steps):
                    start = time.perf_counter()
                    inputs = pending.pop(0).result()
                    if index + _AHEAD < len(steps):
                        pending.append(reader.submit(self._gather, steps[index + _AHEAD]))
                    batch = self.assemble(step, inputs)
                    self.waited += time.perf_counter() - start
                    yield batch
            finally:
                for future in pending:
                    future.cancel()

    def _gather(self, step: Step) -> dict[str, Any]:
        return {name: store.take(step.pairs) for name, store in self._stores.items()}

    def assemble(self, step: Step, inputs: dict[str, Any]) -> Batch:
        """Join the inputs of a step, gathered already, with its captions."""
        rows = torch.from_numpy(step.captions).to(self._device, non_blocking=True)
        tokens = self._tokens.index_select(0, rows)[:, : step.width].long()
        owners = torch.from_numpy(step.owners).to(self._device, non_blocking=True)
        return Batch(inputs, tokens, owners, len(step.pairs))
