"""Sentences from trained models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.captioners.evidence import Evidence
from pipeline.captioners.generation import Hypothesis
from pipeline.captioners.memory import Memory
from pipeline.captioners.settings import GenerationSettings
from pipeline.errors import CacheError
from pipeline.training.change_decision import agreeing, no_change_mass, no_change_tokens
from pipeline.training.checkpoints import Trained, load_model
from pipeline.training.determinism import deterministic
from pipeline.training.evidence_store import EvidenceStore
from pipeline.training.places import PairStore, not_finite


@dataclass(frozen=True)
class Sentence:
    """A generated caption in words.

    Attributes:
        text: The caption.
        hypothesis: The same as token ids, with its score and log-probability.
    """

    text: str
    hypothesis: Hypothesis


Watch = Callable[[Memory, Evidence | None, list[list[Sentence]]], None]


def describe(
    trained: Trained,
    batches: Iterable[tuple[Tensor, Evidence | None]],
    settings: GenerationSettings,
    *,
    mass: float | None = None,
    watch: Watch | None = None,
) -> Iterator[list[list[Sentence]]]:
    """Describe pairs batch by batch.

    Args:
        trained: A model in evaluation mode.
        batches: Its inputs, (B, 2, …) each, and their evidence where it takes any, on its device.
        settings: How to search.
        mass: Let the probability of all no-change sentences together decide: a change is told where it is below this.
            Of the sentences that the beams end with, those that agree come first. None: the likeliest sentence decides.
        watch: Called with each batch's encoded pairs, evidence and sentences.

    Yields:
        For each batch, for each pair, its sentences, best first.

    Raises:
        SettingsError: `mass`, and the no-change sentences of the model's data set are not known.
    """
    device = next(trained.model.parameters()).device
    denials = [] if mass is None else no_change_tokens(trained.card.dataset, trained.vocabulary)
    search = settings if mass is None else settings.model_copy(update={"n_best": settings.beams})
    with torch.inference_mode(), deterministic(device):
        for inputs, evidence in batches:
            memory = trained.model.encode(inputs, evidence)
            found = trained.model.generate(memory, search)
            sentences = [[Sentence(trained.vocabulary.decode(h.tokens), h) for h in pair] for pair in found]
            if mass is not None:
                smoothing = float(trained.card.train["label_smoothing"])
                changed = (no_change_mass(trained.model, memory, denials, smoothing) < mass).tolist()
                sentences = [
                    agreeing([sentence.text for sentence in pair], pair, told)[: settings.n_best]
                    for pair, told in zip(sentences, changed, strict=True)
                ]
            if watch is not None:
                watch(memory, evidence, sentences)
            yield sentences


def stored_batches(
    store: PairStore, batch: int, evidence: EvidenceStore | None = None
) -> Iterator[tuple[Tensor, Evidence | None]]:
    """Yield the inputs of all pairs of a store, in order, with their evidence."""
    for start in range(0, len(store), batch):
        pairs = np.arange(start, min(start + batch, len(store)))
        yield store.take(pairs), None if evidence is None else evidence.take(pairs)


def caption_features(
    folder: Path,
    features: NDArray[Any],
    settings: GenerationSettings | None = None,
    *,
    device: torch.device | None = None,
    evidence: Evidence | None = None,
    mass: float | None = None,
) -> list[list[Sentence]]:
    """Describe pairs that are at hand as arrays.

    Args:
        folder: A model that `sagecc train` wrote: `artifacts/models/<name>/seed-<n>`.
        features: (B, 2, C, h, w) scene features of any floating type, of the backbone that the model was trained with;
            for a model trained with finetune, images (B, 2, 3, H, W) uint8.
        settings: How to search; None takes the defaults.
        device: Where to compute; None takes the CPU.
        evidence: Of the B pairs, on the CPU, for a model with a fusion.
        mass: See `describe`.

    Returns:
        For each pair its sentences, best first.

    Raises:
        CheckpointError: The model cannot be loaded, or takes features of another shape.
        CacheError: A feature is NaN or infinite.
        DataError: The model takes evidence, and it is missing, of other pairs, or holds what is no number.
        SettingsError: See `describe`.
    """
    bad = not_finite(features)
    if bad.any():
        raise CacheError(f"the features of pair {int(bad.argmax())} hold NaN or infinity", where="features")
    device = device or torch.device("cpu")
    trained = load_model(folder, device)
    inputs = torch.from_numpy(np.ascontiguousarray(features)).to(device)
    known = None if evidence is None else evidence.to(device)
    return next(describe(trained, [(inputs, known)], settings or GenerationSettings(), mass=mass))
