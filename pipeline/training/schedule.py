"""The learning rate and the order of the pairs: pure functions of settings, seed and epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.training.captions import CaptionTable


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
    table: CaptionTable, *, batch: int, one_caption: bool, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> list[Step]:
    """Plan the steps of one epoch: every pair once, in an order drawn from (seed, epoch).

    Args:
        table: The captions of the pairs; every pair has at least one.
        batch: Pairs per step over all devices.
        one_caption: Draw one caption per pair instead of taking all.
        seed: Seed of the run.
        epoch: Counts from 0.
        rank: Which of `world` devices this is; a step's pairs are dealt out to them in turn.
        world: Number of devices. A step with fewer pairs than devices repeats pairs, so that none is idle.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(table))
    drawn = table.offsets[:-1] + (random.random(len(table)) * table.counts).astype(np.int64) if one_caption else None
    steps = []
    for start in range(0, len(order), batch):
        pairs = order[start : start + batch]
        if len(pairs) < world:
            pairs = np.resize(pairs, world)
        steps.append(plan_step(table, pairs[rank::world], drawn))
    return steps


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


def plan_in_order(table: CaptionTable, batch: int) -> Sequence[Step]:
    """Plan one pass over all pairs in their own order with all captions, as validation reads them."""
    positions = np.arange(len(table))
    return [plan_step(table, positions[start : start + batch]) for start in range(0, len(positions), batch)]
