"""Input sources: what a captioner reads of each pair, opened, checked, described, and kept where steps take it from.

Every kind of input (scenes, images, regions, semantics, graph, maps) is one `InputSource`. A captioner's settings name
those that it reads; everything else here works on any of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Expectation, Schema
from pipeline.captioners.inputs import Shapes
from pipeline.captioners.settings import CaptionerSettings
from pipeline.datasets.records import Pair, Prepared, read_prepared
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.errors import CacheError, CheckpointError
from pipeline.paths import Paths
from pipeline.registry import Registry
from pipeline.training.settings import Residency
from pipeline.training.stores import Store


class CacheCard(BaseModel):
    """A cache as it describes itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, Any]
    settings_hash: str
    weights: dict[str, str]
    """SHA-256 of the weight files, by name."""
    upstream: dict[str, str]
    """SHA-256 of the inputs, by name."""
    data_sha256: str = ""
    """What was computed, see `Cache.data_sha256`: that a bad item was mended since then, or code changed, shows here
    alone. Empty in the cards of earlier versions."""

    @classmethod
    def of(cls, cache: Cache) -> CacheCard:
        """Describe an open cache."""
        provenance = cache.provenance
        return cls(
            settings=dict(provenance.settings),
            settings_hash=provenance.settings_hash,
            weights=dict(provenance.weights),
            upstream=dict(provenance.upstream),
            data_sha256=cache.data_sha256,
        )


class SourceCard(BaseModel):
    """What a model's card keeps of one input that it was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, ...]
    """See `InputSource.shape`."""
    caches: dict[str, CacheCard] = {}
    """The caches that the input was made of, by stage, in the order of the stages."""
    files: dict[str, str] = {}
    """SHA-256 of other files that were read, by name."""


class InputSource(ABC):
    """One kind of input. Picklable: each process opens its files anew, and refuses replaced ones.

    Attributes:
        name: The name by which captioners read it, and their settings and cards name it.
        stages: The stages that must have run, in order, before it can be opened; `describe` runs them on one pair.
    """

    name: ClassVar[str]
    stages: ClassVar[tuple[str, ...]]

    @classmethod
    @abstractmethod
    def open(cls, captioner: CaptionerSettings, paths: Paths, data: Prepared, *, training: bool) -> Self:
        """Open the input's files and check that they belong to the prepared pairs and to each other.

        Args:
            captioner: Settings of the captioner that reads it.
            paths: Where the files are.
            data: The pairs that the input must be about.
            training: Whether a captioner is to be trained on it; else a trained one is asked.

        Raises:
            CacheError: A cache is missing, damaged, of other pairs, or made from another cache than the one at hand.
            DataError: Another file is missing or damaged.
            CheckpointError: Pretrained weights are missing, damaged, or of another input.
            SettingsError: The captioner's settings do not fit the input.
        """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """What a captioner has to know before it is built: the shape of one pair's input without dates and regions."""

    @abstractmethod
    def card(self) -> SourceCard:
        """Describe the input for a model's card."""

    @abstractmethod
    def store(
        self,
        pairs: Sequence[Pair],
        device: torch.device,
        residency: Literal["auto"] | Residency = "auto",
        *,
        with_rows: bool = False,
    ) -> Store[Any]:
        """Keep the input of `pairs` where steps can gather it.

        Args:
            pairs: The pairs, in the order of their positions.
            device: Where batches are put.
            residency: Where the values are kept; auto: the first residency in which they fit.
            with_rows: Whether regions tell their rows in the cache, for attention maps.

        Raises:
            CacheError: A pair was left out of a cache, or a value is NaN or infinite.
            DataError: An image cannot be read.
            OutputError: The input does not fit where `residency` says.
        """

    def available(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Return those of `pairs` that no stage skipped when it made the input (`engine.on_bad_item: skip`)."""
        return list(pairs)

    def pretrained(self) -> Mapping[str, Tensor] | None:
        """Return weights that a captioner starts with for this input; None without any."""
        return None


SOURCES: Final[Registry[type[InputSource]]] = Registry("input source")
"""Each name stands for an `InputSource`."""

for _name, _target in (
    ("scenes", "pipeline.training.scene_inputs:SceneSource"),
    ("images", "pipeline.training.scene_inputs:ImageSource"),
    ("maps", "pipeline.training.scene_inputs:MapSource"),
    ("regions", "pipeline.training.region_inputs:RegionSource"),
    ("semantics", "pipeline.training.region_inputs:SemanticSource"),
    ("graph", "pipeline.training.region_inputs:GraphSource"),
):
    SOURCES.register(_name, _target)


@dataclass(frozen=True)
class Inputs:
    """A prepared data set and the input sources of a captioner, found to belong together.

    Attributes:
        data: The pairs.
        vocabulary: Their vocabulary.
        sources: By name, in the order in which the captioner names them.
    """

    data: Prepared
    vocabulary: Vocabulary
    sources: Mapping[str, InputSource]

    @property
    def shapes(self) -> Shapes:
        """Shape of each input, by the name that the captioner reads: images become scenes before it sees them."""
        return {"scenes" if name == "images" else name: source.shape for name, source in self.sources.items()}

    def cards(self) -> dict[str, SourceCard]:
        """Describe each input for a model's card."""
        return {name: source.card() for name, source in self.sources.items()}

    def lacking(self, pairs: Sequence[Pair]) -> dict[str, list[str]]:
        """Return those of `pairs` that a source lacks because a stage skipped them: id → the names of these sources."""
        lacking: dict[str, list[str]] = {}
        for name, source in self.sources.items():
            available = {pair.id for pair in source.available(pairs)}
            for pair in pairs:
                if pair.id not in available:
                    lacking.setdefault(pair.id, []).append(name)
        return {pair.id: lacking[pair.id] for pair in pairs if pair.id in lacking}

    def available(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Return those of `pairs` that every source has."""
        lacking = self.lacking(pairs)
        return [pair for pair in pairs if pair.id not in lacking]

    def stores(
        self,
        pairs: Sequence[Pair],
        device: torch.device,
        residency: Literal["auto"] | Residency = "auto",
        *,
        with_rows: bool = False,
    ) -> dict[str, Store[Any]]:
        """Keep all inputs of `pairs`; see `InputSource.store`."""
        return {
            name: source.store(pairs, device, residency, with_rows=with_rows) for name, source in self.sources.items()
        }


def open_inputs(
    paths: Paths, captioner: CaptionerSettings, names: Sequence[str] | None = None, *, training: bool
) -> Inputs:
    """Read a prepared data set and open the inputs that a captioner reads.

    Args:
        paths: Where everything is.
        captioner: The captioner's settings.
        names: Input sources, where they are not `captioner.input_names()`; see `TrainSettings.input_names`.
        training: Whether a captioner is to be trained.

    Raises:
        DataError: The prepared folder is missing or damaged.
        SettingsError: The captioner names an input that no source provides.
        SageccError: See `InputSource.open`.
    """
    data = read_prepared(paths.prepared)
    vocabulary = Vocabulary.load(data.vocabulary_path)
    chosen = captioner.input_names() if names is None else names
    kinds = {name: SOURCES.resolve(name) for name in chosen}
    sources = {name: kind.open(captioner, paths, data, training=training) for name, kind in kinds.items()}
    return Inputs(data, vocabulary, sources)


def open_cache(path: Path, schema: Schema, upstream: Mapping[str, str], data: Prepared) -> Cache:
    """Open a cache that must be about the prepared pairs, in their order.

    Raises:
        CacheError: It is missing, damaged, or was made from other inputs.
    """
    cache = Cache.open(path, schema, expect=Expectation(upstream=dict(upstream), repair=f"sagecc {schema.stage}"))
    check_pairs(cache, data)
    return cache


def check_pairs(cache: Cache, data: Prepared) -> None:
    """Make sure that a cache is about the prepared pairs, in their order.

    Raises:
        CacheError: It is not.
    """
    if cache.ids != tuple(pair.id for pair in data.pairs):
        missing = next((pair.id for pair in data.pairs if pair.id not in cache.index), None)
        what = "its pairs are in another order" if missing is None else f"pair {missing!r} is not in it"
        stage = cache.schema.stage
        raise CacheError(
            f"the {stage} are not those of the prepared pairs: {what}", where=cache.path, fix=f"run `sagecc {stage}`"
        )


def source_names(lacking: Mapping[str, Sequence[str]]) -> str:
    """Return the names of the sources in the result of `Inputs.lacking`, for a message: "scenes or regions"."""
    return " or ".join(dict.fromkeys(name for names in lacking.values() for name in names))


def pairs_in(cache: Cache, pairs: Sequence[Pair]) -> list[Pair]:
    """Return those of `pairs` of which no date was skipped when the cache was made."""
    skipped = {int(unit) // cache.schema.units_per_item for unit in cache.missing}
    return [pair for pair in pairs if cache.index[pair.id] not in skipped]


def cache_units(cache: Cache, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the units of the pairs `ids` one after the other, those of both dates of an image cache.

    Raises:
        CacheError: One of them was skipped when the cache was made.
    """
    dates = np.arange(cache.schema.units_per_item)
    units = np.array([cache.unit(name) for name in ids], dtype=np.int64)[:, None] + dates
    skipped = np.isin(units, cache.missing).any(1)
    if skipped.any():
        stage = cache.schema.stage
        raise CacheError(
            f"pair {ids[int(skipped.argmax())]!r} was skipped when `sagecc {stage}` ran, and "
            f"{int(skipped.sum()) - 1} more",
            where=cache.path,
            fix=f"mend what {cache.path.stem}.failures.json names beside it and run `sagecc {stage}` again",
        )
    return units.ravel()


def check_cards(
    trained: Mapping[str, SourceCard],
    current: Mapping[str, SourceCard],
    *,
    model: Path,
    paths: Paths,
    settings: bool = True,
    same_pairs: bool = False,
) -> None:
    """Make sure that a model is given inputs of the kind that it was trained on.

    Args:
        trained: The inputs of the model's card.
        current: The inputs at hand.
        model: The model's folder.
        paths: Where the inputs at hand are.
        settings: Whether the settings of the caches are compared too; else they are those of the card by construction.
        same_pairs: Whether both are about the same pairs: then the caches must have been made from the same inputs.

    Raises:
        CacheError: A cache was made with other settings, weights or inputs, or a file is another one.
        CheckpointError: An input has another shape than the model was built for.
    """
    for name, card in trained.items():
        for stage, cache in card.caches.items():
            if stage in current[name].caches:
                made_with = _difference(cache, current[name].caches[stage], settings, same_pairs)
                if made_with is not None:
                    card_path = model / "settings.json"
                    again = f"run `sagecc {stage}` with the settings in {card_path}, or `sagecc train` on these"
                    raise CacheError(
                        f"the {stage} were made with {made_with} than those that {model.name} was trained on",
                        where=getattr(paths, stage) if settings else model / "settings.json",
                        fix=again if settings else "bring back the weights that it names, or train again",
                    )
        files = current[name].files
        if changed := sorted(file for file, sha in files.items() if card.files.get(file, sha) != sha):
            raise CacheError(
                f"the {name} is not the one that {model.name} was trained with: {', '.join(changed)}",
                where=getattr(paths, name),
                fix=f"bring that {name} back, or run `sagecc train` with this one",
            )
        if card.shape != current[name].shape:
            raise CheckpointError(
                f"the model reads {name} of shape {card.shape}, and these have {current[name].shape}",
                where=model / "settings.json",
                fix="run `sagecc train` on these caches",
            )


def _difference(trained: CacheCard, current: CacheCard, settings: bool, same_pairs: bool) -> str | None:
    if settings and trained.settings_hash != current.settings_hash:
        keys = trained.settings.keys() | current.settings.keys()
        different = sorted(key for key in keys if trained.settings.get(key) != current.settings.get(key))
        return f"other settings ({', '.join(different)})"
    if trained.weights != current.weights:
        return f"other weights ({', '.join(sorted(trained.weights))})"
    if same_pairs and trained.upstream != current.upstream:
        names = sorted(name for name, sha in trained.upstream.items() if current.upstream.get(name) != sha)
        return f"another {', '.join(names)}"
    return None
