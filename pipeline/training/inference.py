"""What a captioner looked at for each word of its captions, as a file.

Whether a change is told at all: by the probability of all no-change sentences together.

The likeliest sentence is a poor judge of it. Annotators deny a change in a few fixed sentences and tell of one in
thousands of ways: where a model gives 40 % to "nothing changed", each of LEVIR-CC's five sentences has 8 %, and no
single sentence of change comes near, so that beam search denies almost everything. Their sum is what the model thinks.


Sentences from trained models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache.schema import Field, Provenance, Schema
from pipeline.cache.writer import pack
from pipeline.captioners.attention_maps import Look, looks
from pipeline.captioners.fusion import keep_best
from pipeline.captioners.generation import Hypothesis
from pipeline.captioners.inputs import Evidence, Memory, Regions
from pipeline.captioners.settings import GenerationSettings
from pipeline.config import Section, settings_hash
from pipeline.datasets.no_change import NO_CHANGE_SENTENCES, implies_change
from pipeline.datasets.records import Prepared
from pipeline.datasets.vocabulary import UNK, Vocabulary
from pipeline.errors import CacheError, SettingsError
from pipeline.runtime import deterministic
from pipeline.training.checkpoints import Trained, load_model
from pipeline.training.model import PairCaptioner
from pipeline.training.stores import EvidenceStore, PairStore, not_finite

SentenceT = TypeVar("SentenceT")


def no_change_tokens(dataset: str, vocabulary: Vocabulary) -> list[list[int]]:
    """Return the token ids, from start to end, of the sentences by which a data set denies change.

    Raises:
        SettingsError: They are not known, or the vocabulary lacks a word of each.
    """
    encoded = [list(vocabulary.encode(text)) for text in NO_CHANGE_SENTENCES.get(dataset, ())]
    found = [tokens for tokens in encoded if UNK not in tokens]
    if not found:
        raise SettingsError(
            f"the no-change sentences of the data set {dataset} are not known",
            where="caption.change: mass",
            fix=f"set caption.change: sentence; known are {', '.join(NO_CHANGE_SENTENCES)}",
        )
    return found


@torch.inference_mode()
def no_change_mass(
    model: PairCaptioner, memory: Memory, sentences: Sequence[Sequence[int]], smoothing: float = 0.0
) -> Tensor:
    """Return the probability (B,) that the model gives to `sentences` together.

    Args:
        model: In evaluation mode.
        memory: B encoded pairs.
        sentences: Token ids, from start to end token.
        smoothing: The ε that the model was trained with; see `PairCaptioner.log_probability`.
    """
    rows = torch.arange(len(memory), device=memory.device)
    total = torch.zeros(len(memory), device=memory.device)
    for sentence in sentences:
        tokens = torch.tensor(sentence, device=memory.device).expand(len(memory), -1)
        total += model.log_probability(memory, tokens, rows, smoothing=smoothing).exp()
    return total


def agreeing(texts: Sequence[str], sentences: Sequence[SentenceT], changed: bool) -> list[SentenceT]:
    """Put the sentences whose texts agree with the decision first, either part in its own order."""
    order = sorted(range(len(texts)), key=lambda place: implies_change(texts[place]) != changed)
    return [sentences[place] for place in order]


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
    store: PairStore, batch_size: int, evidence: EvidenceStore | None = None
) -> Iterator[tuple[Tensor, Evidence | None]]:
    """Yield the inputs of all pairs of a store, in order, with their evidence."""
    for start in range(0, len(store), batch_size):
        pairs = np.arange(start, min(start + batch_size, len(store)))
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


_SHARE = (
    "with fusion: release its share of the cross-attention of each decoder layer, averaged over heads; with fusion: "
    "paper its weight in the vector that is added to every layer, the same for all words"
)


def _regions(name: str, cache: str, meaning: str) -> tuple[Field, ...]:
    return (
        Field(f"{name}_date", "uint8", offsets=name, description=f"0 before, 1 after; {meaning}"),
        Field(f"{name}_row", "int32", offsets=name, description=f"which of its image's regions in {cache} it is"),
        Field(
            f"{name}_share",
            "float16",
            shape=(-1,),
            offsets=f"{name}_looks",
            description=f"word after word, for each of these regions: {_SHARE}",
        ),
    )


SCHEMA = Schema(
    stage="explanation",
    version=1,
    unit="pair",
    fields=(
        Field("word", "int32", offsets="words", description="ids of the caption's words in the model's vocabulary"),
        Field(
            "cells",
            "float16",
            shape=(-1, -1, -1),
            offsets="words",
            description="share of the cross-attention of each decoder layer, averaged over heads, on each cell of the "
            "image grid: layers, rows, columns",
        ),
        Field("change", "float16", shape=(-1, -1), description="M_map of section 3.2: rows, columns"),
        *_regions("motion", "regions.h5", "a region without a counterpart at the other date"),
        *_regions("semantics", "semantics.h5", "a region that a prompt names"),
        Field("nodes", "float16", shape=(-1, -1), offsets="words", description=f"layers, nodes of the graph: {_SHARE}"),
    ),
)
"""What `seed-<n>.explanation.h5` holds. A region's category is in the same row of semantics.h5, a node's name in
graph.json."""


def arrays(look: Look, words: Sequence[int], evidence: Evidence | None, row: int, top_q: int | None) -> dict[str, Any]:
    """Return one pair's arrays by the names of `SCHEMA`.

    Args:
        look: What was looked at.
        words: Token ids of the caption.
        evidence: That the captioner was given, its regions with `rows`; None without.
        row: The pair in it.
        top_q: How many semantic regions the captioner keeps.
    """
    found: dict[str, Any] = {
        "word": np.array(words, np.int32),
        "cells": _half(look.cells),
        "change": _half(look.change),
        "nodes": _half(look.parts["nodes"]) if "nodes" in look.parts else _half(look.cells[:, :, 0, :0]),
    }
    motion = None if evidence is None else evidence.motion
    semantics = None if evidence is None or evidence.semantics is None else keep_best(evidence.semantics, top_q)
    for name, regions in (("motion", motion), ("semantics", semantics)):
        found |= _region_arrays(name, look, regions if name in look.parts else None, row)
    return found


class Explainer:
    """Collects what a model looks at while it describes pairs; see `pipeline.training.inference.Watch`.

    Args:
        trained: The model.
    """

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self._units: list[dict[str, Any]] = []

    def __call__(self, memory: Memory, evidence: Evidence | None, sentences: list[list[Sentence]]) -> None:
        """Explain the best sentence of each pair of a batch."""
        captioner = self._trained.model.captioner
        words = [best.hypothesis.tokens for best, *_ in sentences]
        top_q = captioner.settings.evidence.top_q
        for row, look in enumerate(looks(captioner, memory, words)):
            self._units.append(arrays(look, words[row], evidence, row, top_q))

    def write(self, path: Path, ids: Sequence[str], data: Prepared, settings: Section) -> Path:
        """Write what was collected, in the format of the caches (docs/caches.md).

        Args:
            path: The file.
            ids: Of the pairs, in the order in which they were described.
            data: The data set that they are of.
            settings: With which they were described.

        Raises:
            OutputError: It cannot be written.
        """
        provenance = Provenance(
            stage=SCHEMA.stage,
            schema_version=SCHEMA.version,
            settings=settings.model_dump(mode="json"),
            settings_hash=settings_hash(settings),
            weights={"model": self._trained.card.weights_sha256},
            upstream={"pairs.jsonl": data.card.pairs_sha256},
        )
        return pack(path, SCHEMA, provenance, ids, _Units(self._units))


def _region_arrays(name: str, look: Look, regions: Regions | None, row: int) -> dict[str, Any]:
    layers = look.cells.shape[1]
    if regions is None:
        return {
            f"{name}_date": np.zeros(0, np.uint8),
            f"{name}_row": np.zeros(0, np.int32),
            f"{name}_share": np.zeros((0, layers), np.float16),
        }
    if regions.dates is None or regions.rows is None:
        raise ValueError(f"the {name} regions do not tell where they come from")
    there = regions.mask[row]
    shares = look.parts[name][..., there]
    return {
        f"{name}_date": regions.dates[row][there].cpu().numpy().astype(np.uint8),
        f"{name}_row": regions.rows[row][there].cpu().numpy().astype(np.int32),
        f"{name}_share": _half(shares.transpose(1, 2).flatten(0, 1)),
    }


def _half(tensor: Tensor) -> NDArray[np.float16]:
    found: NDArray[np.float16] = tensor.half().cpu().numpy()
    return found


class _Units:
    """Arrays at hand as the units of a cache."""

    def __init__(self, units: Sequence[dict[str, Any]]) -> None:
        self._units = units

    def __len__(self) -> int:
        return len(self._units)

    def lengths(self, unit: int) -> dict[str, int]:
        found = self._units[unit]
        return {field.offsets: len(found[field.name]) for field in SCHEMA.fields if field.offsets is not None}

    def read(self, unit: int) -> dict[str, Any]:
        return self._units[unit]
