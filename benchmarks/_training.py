"""Random features and captions of LEVIR-CC's shapes, and steps of training on them, for the benchmarks of training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.training.batches import Batch, BatchLoader, CaptionTable, Step, plan_epoch
from pipeline.training.model import PairCaptioner
from pipeline.training.settings import CaptionsPerPair
from pipeline.training.stores import PairArray

SHAPE = (2048, 8, 8)  # of ResNet-101 at 256 pixels
SIDE = 256
VOCABULARY = 500  # words, about LEVIR-CC's
BATCH = 32  # the default of the stage `train`

CAPTIONS = 5  # per pair, as in LEVIR-CC
_WORDS = (5, 16)  # per caption, start and end counted


@dataclass
class Side:
    """One way to train; called, it trains for some steps and returns pairs per second."""

    loader: BatchLoader
    steps: int
    batch: int
    captions_per_pair: CaptionsPerPair
    train: Callable[[Batch], None]
    batches: Callable[[Sequence[Step]], Iterator[Batch]]
    epoch: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def __call__(self) -> float:
        plan: list[Step] = []
        while len(plan) < self.steps:
            plan += plan_epoch(
                self.loader.captions,
                batch_size=self.batch,
                captions_per_pair=self.captions_per_pair,
                seed=0,
                epoch=self.epoch,
            )
            self.epoch += 1
        plan = plan[: self.steps]
        waited, start = self.loader.waited, time.perf_counter()
        for batch in self.batches(plan):
            self.train(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        self.waited += self.loader.waited - waited
        self.seconds += seconds
        return sum(len(step.pairs) for step in plan) / seconds


def trainer(model: PairCaptioner) -> Callable[[Batch], None]:
    """Return one step of training."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step(batch: Batch) -> None:
        loss = model(batch.inputs, batch.tokens, batch.owners)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def captions(pairs: int) -> CaptionTable:
    """Return five random captions for each pair."""
    random = np.random.default_rng(0)
    lengths = random.integers(*_WORDS, endpoint=True, size=CAPTIONS * pairs)
    tokens = random.integers(4, VOCABULARY, size=(len(lengths), _WORDS[1]), dtype=np.int32)
    tokens[np.arange(_WORDS[1]) >= lengths[:, None]] = 0
    return CaptionTable(tokens, lengths.astype(np.int64), np.arange(0, len(lengths) + 1, CAPTIONS, dtype=np.int64))


def features(folder: Path, pairs: int) -> PairArray:
    """Write random features, not negative as a ReLU leaves them, to a file in `folder`."""
    path = folder / "features.npy"
    random = np.random.default_rng(1)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(pairs, 2, *SHAPE))
    for row in array:
        row[:] = random.standard_normal(row.shape, dtype=np.float32).clip(0)
    array.flush()
    rows = np.arange(pairs, dtype=np.int64)
    return PairArray(np.load(path, mmap_mode="r"), rows, [str(row) for row in rows], "features")
