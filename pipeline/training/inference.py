"""Captions from trained models: whether a change is told at all, the sentences, and their attention maps as a file.

Whether a change is told may be decided by the probability of all no-change sentences together. The likeliest sentence
is a poor judge: annotators deny a change in a few fixed sentences and describe one in thousands of ways. Where a model
gives 40 % to "nothing changed", each of LEVIR-CC's five sentences has 8 %, no single sentence of change comes near, and
beam search denies almost everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache.schema import Field, Provenance, Schema
from pipeline.cache.writer import pack
from pipeline.captioners.attention_maps import AttentionMap, attention_maps
from pipeline.captioners.generation import Hypothesis
from pipeline.captioners.inputs import Regions
from pipeline.captioners.settings import GenerationSettings
from pipeline.config import Section, settings_hash
from pipeline.datasets.no_change import ChangeRule, Sentences, no_change_sentences
from pipeline.datasets.records import Prepared
from pipeline.datasets.vocabulary import UNK, Vocabulary
from pipeline.errors import SettingsError
from pipeline.execution.failures import device_errors
from pipeline.runtime import deterministic
from pipeline.training.checkpoints import Trained
from pipeline.training.model import PairCaptioner
from pipeline.training.stores import Store

SentenceT = TypeVar("SentenceT")


def no_change_tokens(dataset: str, vocabulary: Vocabulary, sentences: Sentences) -> list[list[int]]:
    """Return the token ids, from start to end, of the sentences by which a data set denies change.

    Raises:
        SettingsError: They are not known, or the vocabulary lacks a word of each.
    """
    texts = [text for of_language in sentences.values() for text in of_language]
    encoded = dict.fromkeys(tuple(vocabulary.encode(text)) for text in texts)
    usable = [list(tokens) for tokens in encoded if UNK not in tokens]
    if not usable:
        what = f"the vocabulary lacks words of each of the {len(encoded)} no-change sentences of the data set {dataset}"
        raise SettingsError(
            what if encoded else f"the no-change sentences of the data set {dataset} are not known",
            where="caption.change: mass",
            fix=f"list its annotators' sentences in prepare.no_change_sentences.{dataset}, by language, and run "
            "`sagecc prepare`; or set caption.change: sentence",
        )
    return usable


@torch.inference_mode()
def no_change_mass(
    model: PairCaptioner, memory: Any, sentences: Sequence[Sequence[int]], smoothing: float = 0.0
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


def agreeing(
    texts: Sequence[str], sentences: Sequence[SentenceT], changed: bool, rule: ChangeRule | None = None
) -> list[SentenceT]:
    """Put the sentences whose texts agree with the decision first, either part in its own order."""
    rule = rule or ChangeRule()
    order = sorted(range(len(texts)), key=lambda index: rule(texts[index]) != changed)
    return [sentences[index] for index in order]


@dataclass(frozen=True)
class Sentence:
    """A generated caption in words.

    Attributes:
        text: The caption.
        hypothesis: The same as token ids, with its score and log-probability.
    """

    text: str
    hypothesis: Hypothesis


BatchObserver = Callable[[Any, Mapping[str, Any], list[list[Sentence]]], None]


def caption_batches(
    trained: Trained,
    batches: Iterable[Mapping[str, Any]],
    settings: GenerationSettings,
    *,
    change_threshold: float | None = None,
    no_change: Sentences | None = None,
    observer: BatchObserver | None = None,
) -> Iterator[list[list[Sentence]]]:
    """Describe pairs batch by batch.

    Args:
        trained: A model in evaluation mode.
        batches: Its inputs by the name of their source, on its device.
        settings: How to search.
        change_threshold: Let the probability of all no-change sentences together decide: a change is told where it is
            below this. Of the sentences that the beams end with, those that agree come first. None: the likeliest
            sentence decides.
        no_change: Sentences of the model's data set that deny change, by language; None: those that its adapter lists.
        observer: Called with each batch's encoded pairs, inputs and sentences.

    Yields:
        For each batch, for each pair, its sentences, best first.

    Raises:
        ResourceError: Memory does not suffice for a batch.
        ServiceError: The GPU failed.
        SettingsError: `change_threshold` is given, and the no-change sentences of the model's data set are not known.
    """
    dataset = trained.card.dataset
    listed = no_change_sentences().get(dataset, {}) if no_change is None else no_change
    rule = ChangeRule(listed)
    denying = [] if change_threshold is None else no_change_tokens(dataset, trained.vocabulary, listed)
    search = settings if change_threshold is None else settings.model_copy(update={"n_best": settings.beams})
    with (
        torch.inference_mode(),
        deterministic(trained.model.device),
        device_errors("describing", "lower caption.batch_size or caption.beams"),
    ):
        for inputs in batches:
            memory = trained.model.encode(inputs)
            hypotheses = trained.model.generate(memory, search)
            sentences = [[Sentence(trained.vocabulary.decode(h.tokens), h) for h in pair] for pair in hypotheses]
            if change_threshold is not None:
                smoothing = float(trained.card.train["label_smoothing"])
                mass = no_change_mass(trained.model, memory, denying, smoothing)
                sentences = [
                    agreeing([sentence.text for sentence in pair], pair, changed, rule)[: settings.n_best]
                    for pair, changed in zip(sentences, (mass < change_threshold).tolist(), strict=True)
                ]
            if observer is not None:
                observer(memory, inputs, sentences)
            yield sentences


def stored_batches(stores: Mapping[str, Store[Any]], pairs: int, batch_size: int) -> Iterator[dict[str, Any]]:
    """Yield the inputs of all `pairs` of the stores, in order, by the name of their source."""
    for start in range(0, pairs, batch_size):
        rows = np.arange(start, min(start + batch_size, pairs))
        yield {name: store.take(rows) for name, store in stores.items()}


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


def arrays(attention: AttentionMap, words: Sequence[int], regions: Mapping[str, Regions], row: int) -> dict[str, Any]:
    """Return one pair's arrays by the names of `SCHEMA`.

    Args:
        attention: The attention of the caption's words.
        words: Token ids of the caption.
        regions: By "motion" and "semantics", the regions that it refers to, with `rows`.
        row: The pair in them.
    """
    values: dict[str, Any] = {
        "word": np.array(words, np.int32),
        "cells": _half(attention.cells),
        "change": _half(attention.change),
        "nodes": _half(attention.parts["nodes"]) if "nodes" in attention.parts else _half(attention.cells[:, :, 0, :0]),
    }
    for name in ("motion", "semantics"):
        values |= _region_arrays(name, attention, regions.get(name) if name in attention.parts else None, row)
    return values


class AttentionRecorder:
    """Records the attention maps of a model while it describes pairs; a `BatchObserver`.

    Args:
        trained: The model.
    """

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self._units: list[dict[str, Any]] = []

    def __call__(self, memory: Any, inputs: Mapping[str, Any], sentences: list[list[Sentence]]) -> None:
        """Record the best sentence of each pair of a batch."""
        captioner = self._trained.model.captioner
        words = [best.hypothesis.tokens for best, *_ in sentences]
        regions = captioner.attended_regions(inputs)
        for row, attention in enumerate(attention_maps(captioner, memory, words)):
            self._units.append(arrays(attention, words[row], regions, row))

    def write(self, path: Path, ids: Sequence[str], data: Prepared, settings: Section) -> Path:
        """Write the recorded maps, in the format of the caches (docs/caches.md).

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


def _region_arrays(name: str, attention: AttentionMap, regions: Regions | None, row: int) -> dict[str, Any]:
    layers = attention.cells.shape[1]
    if regions is None:
        return {
            f"{name}_date": np.zeros(0, np.uint8),
            f"{name}_row": np.zeros(0, np.int32),
            f"{name}_share": np.zeros((0, layers), np.float16),
        }
    if regions.dates is None or regions.rows is None:
        raise ValueError(f"the {name} regions do not tell where they come from")
    mask = regions.mask[row]
    shares = attention.parts[name][..., mask]
    return {
        f"{name}_date": regions.dates[row][mask].cpu().numpy().astype(np.uint8),
        f"{name}_row": regions.rows[row][mask].cpu().numpy().astype(np.int32),
        f"{name}_share": _half(shares.transpose(1, 2).flatten(0, 1)),
    }


def _half(tensor: Tensor) -> NDArray[np.float16]:
    values: NDArray[np.float16] = tensor.half().cpu().numpy()
    return values


class _Units:
    """Arrays at hand as the units of a cache."""

    def __init__(self, units: Sequence[dict[str, Any]]) -> None:
        self._units = units

    def __len__(self) -> int:
        return len(self._units)

    def lengths(self, unit: int) -> dict[str, int]:
        values = self._units[unit]
        return {field.offsets: len(values[field.name]) for field in SCHEMA.fields if field.offsets is not None}

    def read(self, unit: int) -> dict[str, Any]:
        return self._units[unit]
