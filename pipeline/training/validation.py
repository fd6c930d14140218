"""Scores of a model on its validation pairs: the loss, and the field's scores of greedily generated captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.captioners.settings import GenerationSettings
from pipeline.evaluation.scores import score
from pipeline.language.vocabulary import Vocabulary
from pipeline.training.feed import Feed
from pipeline.training.model import PairCaptioner
from pipeline.training.schedule import Step
from pipeline.training.settings import SelectionMetric

DIGITS = 6
"""Decimals of scores and losses in files."""


def improves(metric: SelectionMetric, scores: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
    """Tell whether `scores` are better than `best` by `metric`, and where that is equal by the validation loss.

    On few pairs BLEU-4 is often 0, or stays at its best, while the loss still tells better weights from worse.
    """
    if best is None:
        return True
    if metric != "val_loss" and scores[metric] != best[metric]:
        return scores[metric] > best[metric]
    return scores["val_loss"] < best["val_loss"]


@dataclass(frozen=True)
class Validator:
    """Scores a model on fixed pairs.

    Attributes:
        feed: Their inputs and captions.
        steps: One pass over them, in order.
        references: The tokenized captions of each pair, words joined by spaces, by its id in the order of `steps`.
        vocabulary: Turns generated ids into words.
        metric: The score that selects; the scores of generated captions are computed only where it is one of them.
    """

    feed: Feed
    steps: Sequence[Step]
    references: Mapping[str, Sequence[str]]
    vocabulary: Vocabulary
    metric: SelectionMetric

    @torch.inference_mode()
    def __call__(self, model: PairCaptioner, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Return `val_loss` (nats per word) and, unless it selects, `bleu_4` and `cider_d` (times 100).

        METEOR, and with it S*m, needs Java and seconds to start: the stage `evaluate` computes it.

        Args:
            model: Is switched to evaluation mode.
            stop: Asked between batches; True ends the validation.

        Returns:
            The scores by name, or None when stopped.
        """
        model.eval()
        greedy = GenerationSettings(beams=1, max_length=self.vocabulary.settings.max_length)
        total, words, captions = 0.0, 0, []
        for batch in self.feed.batches(self.steps):
            if stop():
                return None
            memory = model.encode(batch.inputs, batch.evidence)
            count = int((batch.tokens[:, 1:] != 0).sum())
            total += float(model.loss(memory, batch.tokens, batch.owners)) * count
            words += count
            if self.metric != "val_loss":
                captions += [self.vocabulary.decode(found[0].tokens) for found in model.generate(memory, greedy)]
        scores = {"val_loss": round(total / words, DIGITS)}
        if self.metric != "val_loss":
            candidates = dict(zip(self.references, captions, strict=True))
            found = score(candidates, self.references, java=None, meteor=False, tokenized=True)
            scores |= {"bleu_4": round(found.bleu_4, DIGITS), "cider_d": round(found.cider_d, DIGITS)}
        return scores
