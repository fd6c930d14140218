"""What a captioner looked at for each word of its captions, as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache import Field, Provenance, Schema, pack
from pipeline.captioners.evidence import Evidence
from pipeline.captioners.explanation import Look, looks
from pipeline.captioners.memory import Memory
from pipeline.captioners.region_tokens import keep_best
from pipeline.captioners.regions import Regions
from pipeline.config import Section, settings_hash
from pipeline.datasets.records import Prepared
from pipeline.training.checkpoints import Trained
from pipeline.training.describing import Sentence

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
    """Collects what a model looks at while it describes pairs; see `pipeline.training.describing.Watch`.

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
