"""Inputs beside the scenes: unmatched regions, semantic regions, and the caption graph.

From the caches of regions, matches and semantics to padded tensors, with the checks that these caches belong together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from pipeline.cache.columns import not_finite
from pipeline.cache.reader import Cache
from pipeline.caption_graph.store import GRAPH, TENSORS, read_graph, read_tensors
from pipeline.captioners.inputs import Regions
from pipeline.captioners.settings import CaptionerSettings, SideInputSettings
from pipeline.datasets.records import Pair, Prepared
from pipeline.errors import CacheError, CheckpointError, SettingsError
from pipeline.files import sha256_file
from pipeline.graph_encoders.settings import GraphEncoderSettings
from pipeline.graph_encoders.tensors import GraphTensors, tensors_of
from pipeline.paths import Paths
from pipeline.training.inputs import CacheCard, InputSource, SourceCard, cache_units, open_cache, pairs_in
from pipeline.training.settings import Residency
from pipeline.training.stores import GraphStore, PackedRegions, RegionStore
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.matching.cache import SCHEMA as MATCHES
from pipeline.vision.matching.cache import read_matches, stage_assignment
from pipeline.vision.regions.cache import SCHEMA as REGIONS
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.weights import load_tensors

ENCODER: Final = "encoder.safetensors"
_GRAPH_AGAIN: Final = "run `sagecc graph`"
_NOT_PRETRAINED: Final = "train.captioner.inputs.pretrained_graph: false"


@dataclass(frozen=True)
class RegionSource(InputSource):
    """Regions without a counterpart at the other date, U_1 and U_2 of equation (10); shape (d,).

    Where masks.h5 is at hand too, the regions must be made of it.

    Attributes:
        settings: Which regions are read, and what of them.
        regions: regions.h5.
        matches: matches.h5.
        masks: What the regions were made of, where it is at hand; only its description is read.
    """

    settings: SideInputSettings
    regions: Cache
    matches: Cache
    masks: Cache | None

    name: ClassVar[str] = "regions"
    stages: ClassVar[tuple[str, ...]] = ("masks", "regions", "matches")

    @classmethod
    def open(cls, captioner: CaptionerSettings, paths: Paths, data: Prepared, *, training: bool) -> RegionSource:
        """See `InputSource.open`.

        Raises:
            CacheError: Also where regions.h5 keeps no grids and the captioner reads them.
        """
        settings = _side_inputs(captioner)
        pairs = {"pairs.jsonl": data.card.pairs_sha256}
        masks = open_cache(paths.masks, MASKS, pairs, data) if paths.masks.is_file() else None
        upstream = pairs if masks is None else pairs | {"masks.h5": masks.sha256}
        regions = open_cache(paths.regions, REGIONS, upstream, data)
        if not math.prod(regions.schema.field(region_field(settings)).row_shape):
            raise CacheError(
                f"the captioner is to learn descriptors of width {settings.descriptor_width} from 7×7 grids, and the "
                "regions are kept without",
                where=paths.regions,
                fix="run `sagecc regions --set regions.store=grids`, or set train.captioner.inputs.descriptor_width: "
                "null",
            )
        return cls(
            settings,
            regions,
            matches=open_cache(paths.matches, MATCHES, {"regions.h5": regions.sha256}, data),
            masks=masks,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """(d,), the width of the descriptors, or C·49 where the captioner makes them of 7×7 grids."""
        return (math.prod(self.regions.schema.field(region_field(self.settings)).row_shape),)

    def card(self) -> SourceCard:
        """See `InputSource.card`."""
        masks = {} if self.masks is None else {"masks": CacheCard.of(self.masks)}
        caches = masks | {"regions": CacheCard.of(self.regions), "matches": CacheCard.of(self.matches)}
        return SourceCard(shape=self.shape, caches=caches)

    def available(self, pairs: Sequence[Pair]) -> list[Pair]:
        """See `InputSource.available`."""
        return pairs_in(self.matches, pairs_in(self.regions, pairs))

    def read(self, ids: Sequence[str], *, with_rows: bool = False) -> PackedRegions:
        """Read the unmatched regions of the pairs `ids`, those before first, into tensors on the CPU.

        Args:
            ids: Which pairs.
            with_rows: Whether regions tell their rows (`Regions.rows`), for attention maps.

        Raises:
            CacheError: A pair was left out of a cache, or a value of it is not finite or lies outside of the image;
                pair and stage are named.
        """
        return _unmatched(self.regions, self.matches, self.settings, ids, with_rows)

    def store(
        self,
        pairs: Sequence[Pair],
        device: torch.device,
        residency: Literal["auto"] | Residency = "auto",
        *,
        with_rows: bool = False,
    ) -> RegionStore:
        """See `InputSource.store`."""
        regions = self.read([pair.id for pair in pairs], with_rows=with_rows)
        return RegionStore(regions, self.name, device, residency)


@dataclass(frozen=True)
class SemanticSource(InputSource):
    """Regions that text prompts name, those that the stage selected (equation 12); shape (e,).

    Attributes:
        cache: semantics.h5.
    """

    cache: Cache

    name: ClassVar[str] = "semantics"
    stages: ClassVar[tuple[str, ...]] = ("semantics",)

    @classmethod
    def open(cls, captioner: CaptionerSettings, paths: Paths, data: Prepared, *, training: bool) -> SemanticSource:
        """See `InputSource.open`."""
        return cls(open_cache(paths.semantics, SEMANTICS, {"pairs.jsonl": data.card.pairs_sha256}, data))

    @property
    def shape(self) -> tuple[int, ...]:
        """(e,), the width of the embeddings."""
        return (math.prod(self.cache.schema.field("embeddings").row_shape),)

    def card(self) -> SourceCard:
        """See `InputSource.card`."""
        return SourceCard(shape=self.shape, caches={"semantics": CacheCard.of(self.cache)})

    def available(self, pairs: Sequence[Pair]) -> list[Pair]:
        """See `InputSource.available`."""
        return pairs_in(self.cache, pairs)

    def read(self, ids: Sequence[str], *, with_rows: bool = False) -> PackedRegions:
        """Read the semantic regions of the pairs `ids`; see `RegionSource.read`."""
        return _selected(self.cache, ids, with_rows)

    def store(
        self,
        pairs: Sequence[Pair],
        device: torch.device,
        residency: Literal["auto"] | Residency = "auto",
        *,
        with_rows: bool = False,
    ) -> RegionStore:
        """See `InputSource.store`."""
        regions = self.read([pair.id for pair in pairs], with_rows=with_rows)
        return RegionStore(regions, self.name, device, residency)


@dataclass(frozen=True)
class GraphSource(InputSource):
    """The caption graph, the same for all pairs; shape (g, R): width of the node features, number of relations.

    A captioner that is trained on it starts with the graph stage's pretrained encoder, unless its settings say
    otherwise. A trained captioner keeps the graph that it was trained with, whatever pairs it describes.

    Attributes:
        tensors: The graph, on the CPU.
        weights: Of its pretrained encoder; None where they are not read.
        digests: SHA-256 of the files that were read, by name.
    """

    tensors: GraphTensors
    weights: Mapping[str, Tensor] | None
    digests: Mapping[str, str]

    name: ClassVar[str] = "graph"
    stages: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def open(cls, captioner: CaptionerSettings, paths: Paths, data: Prepared, *, training: bool) -> GraphSource:
        """See `InputSource.open`; for a training the graph must be made of these pairs' captions."""
        return cls.read(
            paths.graph,
            _side_inputs(captioner),
            pairs_sha256=data.card.pairs_sha256 if training else None,
            with_weights=training,
        )

    @classmethod
    def read(
        cls, folder: Path, settings: SideInputSettings, *, pairs_sha256: str | None, with_weights: bool
    ) -> GraphSource:
        """Read a folder that `sagecc graph` wrote.

        Args:
            folder: graph.json, graph.h5, encoder.safetensors.
            settings: The captioner's graph encoder.
            pairs_sha256: SHA-256 of the pairs.jsonl whose captions it must be made of; None: any.
            with_weights: Whether the pretrained weights are read.

        Raises:
            CacheError: graph.h5 is missing or damaged, belongs to another graph.json or other pairs, has no node
                features, or holds values that are not finite.
            DataError: graph.json is missing or damaged.
            CheckpointError: The weights are missing, damaged, or those of another graph.
            SettingsError: The weights are those of another encoder.
        """
        arrays = read_tensors(folder, pairs_sha256=pairs_sha256)
        path = folder / TENSORS
        if not arrays.features.size:
            raise CacheError("the nodes of the graph have no features", where=path, fix=_GRAPH_AGAIN)
        tensors = tensors_of(arrays)
        wrong = ~tensors.features.isfinite().all(1)
        if wrong.any():
            node = read_graph(folder).graph.entities[int(wrong.nonzero()[0])].name
            raise CacheError(f"the features of the node {node!r} hold NaN or infinity", where=path, fix=_GRAPH_AGAIN)
        digests = {name: sha256_file(folder / name) for name in (GRAPH, TENSORS)}
        weights = None
        if with_weights and settings.pretrained_graph:
            weights = _pretrained(folder / ENCODER, settings.graph_encoder, digests[GRAPH])
            digests[ENCODER] = sha256_file(folder / ENCODER)
        return cls(tensors, weights, digests)

    @property
    def shape(self) -> tuple[int, ...]:
        """(g, R)."""
        return (self.tensors.features.shape[1], self.tensors.relations)

    def card(self) -> SourceCard:
        """See `InputSource.card`."""
        return SourceCard(shape=self.shape, files=dict(self.digests))

    def store(
        self,
        pairs: Sequence[Pair],
        device: torch.device,
        residency: Literal["auto"] | Residency = "auto",
        *,
        with_rows: bool = False,
    ) -> GraphStore:
        """See `InputSource.store`; the graph always resides on the device."""
        return GraphStore(self.tensors, device)

    def pretrained(self) -> Mapping[str, Tensor] | None:
        """Return the weights of the pretrained graph encoder."""
        return self.weights


def region_field(settings: SideInputSettings) -> Literal["descriptors", "grids"]:
    """Return the field of regions.h5 that a captioner reads as a region's features."""
    return "descriptors" if settings.descriptor_width is None else "grids"


def _side_inputs(captioner: CaptionerSettings) -> SideInputSettings:
    settings = getattr(captioner, "inputs", None)
    return settings if isinstance(settings, SideInputSettings) else SideInputSettings()


def _unmatched(
    regions: Cache, matches: Cache, settings: SideInputSettings, ids: Sequence[str], with_rows: bool
) -> PackedRegions:
    units, pairs = cache_units(regions, ids), cache_units(matches, ids)
    centroids, counts = regions.rows("centroids", units)
    sizes, _ = regions.rows("size", units)
    starts = np.cumsum(counts) - counts
    assignment = None
    if settings.match_threshold is not None:
        assignment = stage_assignment(matches).model_copy(update={"threshold": settings.match_threshold})
    unmatched: list[NDArray[np.int32]] = []
    for pair in pairs.tolist():
        pair_matches = read_matches(matches, pair, assignment, max_masks=settings.max_masks)
        unmatched += [pair_matches.unmatched_before, pair_matches.unmatched_after]
    owners = np.repeat(np.arange(len(units)), [len(rows) for rows in unmatched])
    rows = np.concatenate(unmatched) + starts[owners]
    table = _Table(regions, ids, owners)
    field = region_field(settings)
    # Unit by unit: grids of all regions may be more than memory holds.
    features = np.concatenate([regions.row(field, unit)[rows] for unit, rows in zip(units, unmatched, strict=True)])
    features = features.reshape(len(rows), math.prod(features.shape[1:]))
    table.check(field, features)
    # Sizes are stored as height and width, centroids as x and y.
    shares: NDArray[np.float32] = (centroids[rows] / sizes[owners, ::-1]).astype(np.float32)
    table.check("centroids", shares)
    table.refuse(np.any((shares < 0) | (shares > 1), axis=1), "centroids", "lie outside of the image")
    return table.regions(features, centroids=shares, rows=rows - starts[owners] if with_rows else None)


def _selected(semantics: Cache, ids: Sequence[str], with_rows: bool) -> PackedRegions:
    units = cache_units(semantics, ids)
    selected, counts = semantics.rows("selected", units)
    rows = np.flatnonzero(selected)
    owners = np.repeat(np.arange(len(units)), counts)[rows]
    starts = np.cumsum(counts) - counts
    table = _Table(semantics, ids, owners)
    embeddings = semantics.rows("embeddings", units)[0][rows]
    similarity = semantics.rows("similarity", units)[0][rows]
    table.check("embeddings", embeddings)
    table.check("similarity", similarity)
    scores = similarity.max(1).astype(np.float32)
    return table.regions(embeddings, scores=scores, rows=rows - starts[owners] if with_rows else None)


@dataclass(frozen=True)
class _Table:
    """Rows of a cache, pair after pair.

    Attributes:
        cache: Where they come from, for messages.
        ids: The pairs.
        owners: (R,) for each row pair · 2 + date, rising.
    """

    cache: Cache
    ids: Sequence[str]
    owners: NDArray[np.int64]

    def check(self, field: str, values: NDArray[Any]) -> None:
        """Refuse values (R, …) that are no numbers."""
        self.refuse(not_finite(values), field, "hold NaN or infinity")

    def refuse(self, bad: NDArray[np.bool_], field: str, why: str) -> None:
        """Refuse bad rows (R,)."""
        if bad.any():
            stage = self.cache.schema.stage
            raise CacheError(
                f"the {field} of pair {self.ids[int(self.owners[bad.argmax()]) // 2]!r} in {stage} {why}",
                where=self.cache.path,
                fix=f"look at the pair with `sagecc draw`, then run `sagecc {stage}` again",
            )

    def regions(
        self,
        features: NDArray[Any],
        *,
        centroids: NDArray[np.float32] | None = None,
        scores: NDArray[np.float32] | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> PackedRegions:
        """Return the rows as the regions of their pairs."""

        def packed(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values)[None]

        regions = Regions(
            packed(features),
            torch.ones(1, len(features), dtype=torch.bool),
            dates=packed(self.owners % 2),
            centroids=None if centroids is None else packed(centroids),
            scores=None if scores is None else packed(scores),
            rows=None if rows is None else packed(rows),
        )
        return PackedRegions(regions, np.bincount(self.owners // 2, minlength=len(self.ids)))


# What decides the shapes of an encoder's weights, or where messages flow; by kind only.
_OF_ALL = ("kind", "widths", "inverse")
_OF_KIND = {"rgcn": ("bases",), "gat": ("heads",), "monet": ("kernels",)}


def _pretrained(path: Path, expected: GraphEncoderSettings, graph_sha256: str) -> Mapping[str, Tensor]:
    weights, about = load_tensors(path, fix=f"{_GRAPH_AGAIN}, or set {_NOT_PRETRAINED}")
    if about.get("graph_sha256") != graph_sha256:
        raise CheckpointError("the encoder was pretrained on another graph", where=path, fix=_GRAPH_AGAIN)
    try:
        stored = GraphEncoderSettings.model_validate(about.get("encoder"))
    except ValidationError as error:
        raise CheckpointError(
            "the encoder has settings that this version does not know", where=path, fix=_GRAPH_AGAIN
        ) from error
    names = (*_OF_ALL, *_OF_KIND.get(expected.kind, ()))
    different = [name for name in names if getattr(stored, name) != getattr(expected, name)]
    if different:
        stored_values = stored.model_dump(mode="json", include=set(different))
        values = ", ".join(f"{name}: {stored_values[name]}" for name in different)
        raise SettingsError(
            f"the pretrained graph encoder differs from the captioner's in {', '.join(different)}",
            where="models.graph_encoder",
            fix=f"run `sagecc graph` with these settings; or set there {values}; or set {_NOT_PRETRAINED}",
        )
    return weights
