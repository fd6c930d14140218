"""Batches for the loop: inputs and captions of the planned steps, read ahead where reading takes time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.captioners.evidence import Evidence
from pipeline.training.captions import CaptionTable
from pipeline.training.evidence_store import EvidenceStore
from pipeline.training.places import PairStore
from pipeline.training.schedule import Step

_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """What one step computes on, on the device.

    Attributes:
        inputs: (B, 2, …) features float16 or images uint8.
        tokens: (N, T) int64 captions from start to end token, padded with 0.
        owners: (N,) int64 in [0, B): the pair of each caption.
        evidence: What is known of the B pairs beside their scenes; None without a fusion.
    """

    inputs: Tensor
    tokens: Tensor
    owners: Tensor
    evidence: Evidence | None = None


class Feed:
    """Turns planned steps into batches.

    Args:
        store: The inputs.
        captions: See below.
        evidence: Of the same pairs; None without a fusion.

    Attributes:
        captions: The captions of the store's pairs, from which steps are planned.
        waited: Seconds for which the loop has waited for batches so far, gathers on a CPU included.
    """

    def __init__(self, store: PairStore, captions: CaptionTable, evidence: EvidenceStore | None = None) -> None:
        self.waited = 0.0
        self._store = store
        self._evidence = evidence
        self.captions = captions
        self._tokens = torch.from_numpy(captions.tokens).to(store.device)

    def batches(self, steps: Sequence[Step]) -> Iterator[Batch]:
        """Yield the batch of each step, in order; close the iterator to stop early."""
        if not self._store.prefetch and (self._evidence is None or not self._evidence.prefetch):
            for step in steps:
                start = time.perf_counter()
                batch = self.assemble(step, *self._take(step))
                self.waited += time.perf_counter() - start
                yield batch
            return
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as reader:
            pending: list[Future[tuple[Tensor, Evidence | None]]] = [
                reader.submit(self._take, step) for step in steps[:_AHEAD]
            ]
            try:
                for index, step in enumerate(steps):
                    start = time.perf_counter()
                    taken = pending.pop(0).result()
                    if index + _AHEAD < len(steps):
                        pending.append(reader.submit(self._take, steps[index + _AHEAD]))
                    batch = self.assemble(step, *taken)
                    self.waited += time.perf_counter() - start
                    yield batch
            finally:
                for future in pending:
                    future.cancel()

    def _take(self, step: Step) -> tuple[Tensor, Evidence | None]:
        evidence = None if self._evidence is None else self._evidence.take(step.pairs)
        return self._store.take(step.pairs), evidence

    def assemble(self, step: Step, inputs: Tensor, evidence: Evidence | None = None) -> Batch:
        """Join the inputs and the evidence of a step, gathered already, with its captions."""
        device = self._store.device
        rows = torch.from_numpy(step.captions).to(device, non_blocking=True)
        tokens = self._tokens.index_select(0, rows)[:, : step.width].long()
        return Batch(inputs, tokens, torch.from_numpy(step.owners).to(device, non_blocking=True), evidence)
