"""The caption graph as a training takes it: tensors, and the pretrained weights of its encoder.

The caches that a fused captioner reads beside the scenes: opened, and found to belong together.

Which caches the evidence of a training came from, and whether others are like them.

From the caches of regions, matches and semantics to the padded tensors of some pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Expectation, Schema
from pipeline.caption_graph.store import GRAPH, TENSORS, read_graph, read_tensors
from pipeline.captioners.inputs import Evidence, EvidenceWidths, Regions
from pipeline.captioners.settings import CaptionerSettings, EvidenceSettings
from pipeline.datasets.records import Prepared
from pipeline.errors import CacheError, CheckpointError, SettingsError
from pipeline.files import sha256_file
from pipeline.graph_encoders.encoders import GraphTensors, tensors_of
from pipeline.graph_encoders.settings import GraphEncoderSettings
from pipeline.training.inputs import check_pairs
from pipeline.training.stores import not_finite
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.matching.cache import SCHEMA as MATCHES
from pipeline.vision.matching.cache import read_matches, stage_assignment
from pipeline.vision.regions.cache import SCHEMA as REGIONS
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.weights import load_tensors


@dataclass(frozen=True)
class EvidencePaths:
    """Where the caches lie; those that the settings do not take need not be there.

    Attributes:
        regions: Written by `sagecc regions`; where masks.h5 lies beside it, the regions must be made of that.
        matches: Written by `sagecc matches`.
        semantics: Written by `sagecc semantics`.
        graph: Folder that `sagecc graph` wrote.
    """

    regions: Path
    matches: Path
    semantics: Path
    graph: Path

    def by_stage(self) -> dict[str, Path]:
        """Return the paths by the stage that wrote them."""
        return {"regions": self.regions, "matches": self.matches, "semantics": self.semantics, "graph": self.graph}


@dataclass(frozen=True)
class EvidenceCaches:
    """The caches that the settings take. Picklable: each process opens the files anew, and refuses replaced ones.

    Attributes:
        settings: What is taken.
        caches: `regions` and `matches`, or `semantics`, or all three, by stage.
        graph: The caption graph.
        masks: What the regions were made of, where it lies beside them; nothing but its description is read.
    """

    settings: EvidenceSettings
    caches: dict[str, Cache]
    graph: GraphSource | None
    masks: Cache | None = None

    @property
    def widths(self) -> EvidenceWidths:
        """How wide what they hold is."""
        tensors = None if self.graph is None else self.graph.tensors
        return EvidenceWidths(
            motion=_width(self.caches, "regions", region_field(self.settings)),
            semantics=_width(self.caches, "semantics", "embeddings"),
            nodes=None if tensors is None else tensors.features.shape[1],
            relations=None if tensors is None else tensors.relations,
        )

    def card(self) -> EvidenceCard:
        """Say which ones they are."""
        return EvidenceCard(
            widths=self.widths,
            caches={stage: CacheCard.of(cache) for stage, cache in self.caches.items()},
            masks=None if self.masks is None else CacheCard.of(self.masks),
            graph={} if self.graph is None else self.graph.digests,
        )


def open_evidence(
    captioner: CaptionerSettings, paths: EvidencePaths, data: Prepared, *, training: bool
) -> EvidenceCaches | None:
    """Open what a captioner takes beside the scenes.

    Args:
        captioner: Tells what it takes; without a fusion no file is looked at.
        paths: Where it lies.
        data: The pairs that all of it must be about.
        training: Whether a captioner is to be trained: the graph must then be made of these pairs' captions, and its
            encoder's pretrained weights are read. A trained one keeps the graph that it was trained with, whatever
            pairs it describes; see `check_alike`.

    Returns:
        None without a fusion.

    Raises:
        CacheError: A cache is missing, damaged, of other pairs, made from another cache than the one that is there, or
            keeps no grids where the captioner asks for some.
        DataError: The graph is missing or damaged.
        CheckpointError: The pretrained graph encoder is missing, damaged, or that of another graph.
        SettingsError: The pretrained graph encoder is built otherwise than the captioner's.
    """
    if captioner.fusion == "none":
        return None
    taken, pairs = captioner.evidence, {"pairs.jsonl": data.card.pairs_sha256}
    caches: dict[str, Cache] = {}
    masks: Cache | None = None
    if taken.motion:
        path = masks_beside(paths.regions)
        made_of = pairs | ({path.name: sha256_file(path)} if path.is_file() else {})
        caches["regions"] = _open(paths.regions, REGIONS, made_of, data)
        if not _width(caches, "regions", region_field(taken)):
            raise CacheError(
                f"the captioner is to learn descriptors of width {taken.descriptor_width} from 7×7 grids, and the "
                "regions are kept without",
                where=paths.regions,
                fix="run `sagecc regions --set regions.store=grids`, or set train.captioner.evidence.descriptor_width: "
                "null",
            )
        masks = _open(path, MASKS, pairs, data) if path.is_file() else None
        caches["matches"] = _open(paths.matches, MATCHES, {"regions.h5": sha256_file(paths.regions)}, data)
    if taken.semantics:
        caches["semantics"] = _open(paths.semantics, SEMANTICS, pairs, data)
    graph = None
    if taken.graph:
        own = data.card.pairs_sha256 if training else None
        graph = read_source(paths.graph, taken, pairs_sha256=own, weights=training)
    return EvidenceCaches(taken, caches, graph, masks)


def region_field(taken: EvidenceSettings) -> Literal["descriptors", "grids"]:
    """Return what of regions.h5 a captioner takes as a region's features."""
    return "descriptors" if taken.descriptor_width is None else "grids"


def _open(path: Path, schema: Schema, made_of: dict[str, str], data: Prepared) -> Cache:
    cache = Cache.open(path, schema, expect=Expectation(upstream=made_of))
    check_pairs(cache, data)
    return cache


def _width(caches: dict[str, Cache], stage: str, field: str) -> int | None:
    return math.prod(caches[stage].schema.field(field).row_shape) if stage in caches else None


class CacheCard(BaseModel):
    """A cache as it describes itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, Any]
    settings_hash: str
    weights: dict[str, str]
    """SHA-256 of the weight files, by name."""
    upstream: dict[str, str]
    """SHA-256 of the inputs, by name."""

    @classmethod
    def of(cls, cache: Cache) -> CacheCard:
        """Describe an open cache."""
        made = cache.provenance
        return cls(
            settings=dict(made.settings),
            settings_hash=made.settings_hash,
            weights=dict(made.weights),
            upstream=dict(made.upstream),
        )


class EvidenceCard(BaseModel):
    """What a fused model was trained on beside the scenes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: EvidenceWidths
    caches: dict[str, CacheCard]
    """Those that are read, by stage."""
    masks: CacheCard | None = None
    """What the regions were made of; None where motion is not taken, or masks.h5 did not lie beside regions.h5."""
    graph: dict[str, str]
    """SHA-256 of the files of the graph that are read, by name; empty without a graph."""


def masks_beside(regions: Path) -> Path:
    """Return where the masks of a regions.h5 lie, if they were kept."""
    return regions.with_name("masks.h5")


def check_alike(
    trained: EvidenceCard, found: EvidenceCard, *, same_pairs: bool, model: Path, where: Mapping[str, Path]
) -> None:
    """Make sure that a model is asked about evidence of the kind that it was trained on.

    Args:
        trained: What the model's card says.
        found: What the same settings find now.
        same_pairs: Whether both are about the same pairs: then the caches must have been made from the same inputs.
        model: The model's folder.
        where: The files by stage.

    Raises:
        CacheError: A cache was made with other settings, weights or inputs, or the graph is another one.
        CheckpointError: Something is of another width than the model was built for.
    """
    for stage, card in trained.caches.items():
        _check_cache(card, found.caches[stage], stage, same_pairs, model, where[stage])
    if trained.masks is not None and found.masks is not None:
        masks = masks_beside(where["regions"])
        _check_cache(trained.masks, found.masks, "masks", same_pairs, model, masks)
    if other := sorted(name for name, sha in found.graph.items() if trained.graph.get(name, sha) != sha):
        raise CacheError(
            f"the graph is not the one that {model.name} was trained with: {', '.join(other)}",
            where=where["graph"],
            fix="bring that graph back, or run `sagecc train` with this one",
        )
    if trained.widths != found.widths:
        before, now = asdict(trained.widths), asdict(found.widths)
        name = next(name for name in before if before[name] != now[name])
        raise CheckpointError(
            f"the model takes evidence of other widths: {name} {before[name]}, found {now[name]}",
            where=model / "settings.json",
            fix="run `sagecc train` on these caches",
        )


def _check_cache(trained: CacheCard, found: CacheCard, stage: str, same_pairs: bool, model: Path, path: Path) -> None:
    if trained.settings_hash != found.settings_hash:
        keys = trained.settings.keys() | found.settings.keys()
        different = sorted(key for key in keys if trained.settings.get(key) != found.settings.get(key))
        what = f"other settings ({', '.join(different)})"
    elif trained.weights != found.weights:
        what = "other weights"
    elif same_pairs and trained.upstream != found.upstream:
        names = sorted(name for name, sha in trained.upstream.items() if found.upstream.get(name) != sha)
        what = f"another {', '.join(names)}"
    else:
        return
    raise CacheError(
        f"the {stage} were made with {what} than those that {model.name} was trained on",
        where=path,
        fix=f"run `sagecc {stage}` as {model / 'settings.json'} tells, or `sagecc train` on these",
    )


def read_evidence(caches: EvidenceCaches, ids: Sequence[str], *, places: bool = False) -> Evidence:
    """Read the evidence of the pairs `ids` into tensors on the CPU, features in the type they are stored in.

    Args:
        caches: The open caches.
        ids: Which pairs.
        places: Whether regions tell their rows (`Regions.rows`), for explanations.

    Raises:
        CacheError: A pair was left out of a cache, or a value of it is no number or lies outside of the image; pair and
            stage are named.
    """
    regions, semantics = caches.caches.get("regions"), caches.caches.get("semantics")
    return Evidence(
        motion=None if regions is None else _motion(regions, caches.caches["matches"], caches.settings, ids, places),
        semantics=None if semantics is None else _semantics(semantics, ids, places),
        graph=None if caches.graph is None else caches.graph.tensors,
    )


def _motion(regions: Cache, matches: Cache, settings: EvidenceSettings, ids: Sequence[str], places: bool) -> Regions:
    """Regions without a counterpart at the other date, those before first."""
    units, pairs = _units(regions, ids), _units(matches, ids)
    centroids, counts = regions.rows("centroids", units)
    sizes, _ = regions.rows("size", units)
    starts = np.cumsum(counts) - counts
    rule = None
    if settings.match_threshold is not None:
        rule = stage_assignment(matches).model_copy(update={"threshold": settings.match_threshold})
    chosen: list[NDArray[np.int32]] = []
    for pair in pairs.tolist():
        found = read_matches(matches, pair, rule, kept=settings.masks_kept)
        chosen += [found.unmatched_before, found.unmatched_after]
    owners = np.repeat(np.arange(len(units)), [len(alone) for alone in chosen])
    rows = np.concatenate(chosen) + starts[owners]
    table = _Table(regions, ids, owners)
    field = region_field(settings)
    # Unit by unit: grids of all regions may be more than memory holds.
    features = np.concatenate([regions.row(field, unit)[alone] for unit, alone in zip(units, chosen, strict=True)])
    features = features.reshape(len(rows), math.prod(features.shape[1:]))
    table.check(field, features)
    # Sizes are stored as height and width, centroids as x and y.
    shares: NDArray[np.float32] = (centroids[rows] / sizes[owners, ::-1]).astype(np.float32)
    table.check("centroids", shares)
    table.refuse(np.any((shares < 0) | (shares > 1), axis=1), "centroids", "lie outside of the image")
    return table.regions(features, centroids=shares, rows=rows - starts[owners] if places else None)


def _semantics(semantics: Cache, ids: Sequence[str], places: bool) -> Regions:
    """Regions that the stage selected, in its order, with their largest similarity to a prompt."""
    units = _units(semantics, ids)
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
    return table.regions(embeddings, scores=scores, rows=rows - starts[owners] if places else None)


def _units(cache: Cache, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the units of pairs one after the other.

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
    ) -> Regions:
        """Pad the rows to regions of pairs."""
        counts = np.bincount(self.owners // 2, minlength=len(self.ids)).tolist()

        def split(values: NDArray[Any]) -> tuple[Tensor, ...]:
            return torch.split(torch.from_numpy(values), counts)

        return Regions.padded(
            split(features),
            dates=split(self.owners % 2),
            centroids=None if centroids is None else split(centroids),
            scores=None if scores is None else split(scores),
            rows=None if rows is None else split(rows),
        )


ENCODER = "encoder.safetensors"
_GRAPH_AGAIN = "run `sagecc graph`"
_NOT_PRETRAINED = "train.captioner.evidence.pretrained_graph: false"
# What decides the shapes of an encoder's weights, or where messages flow; by kind only.
_OF_ALL = ("kind", "widths", "inverse")
_OF_KIND = {"rgcn": ("bases",), "gat": ("heads",), "monet": ("kernels",)}


@dataclass(frozen=True)
class GraphSource:
    """A graph that was found whole.

    Attributes:
        tensors: The graph, on the CPU.
        weights: Of its pretrained encoder; None where they are not asked for.
        digests: SHA-256 of the files that were read, by name.
    """

    tensors: GraphTensors
    weights: Mapping[str, Tensor] | None
    digests: dict[str, str]


def read_source(folder: Path, settings: EvidenceSettings, *, pairs_sha256: str | None, weights: bool) -> GraphSource:
    """Read a folder that `sagecc graph` wrote.

    Args:
        folder: graph.json, graph.h5, encoder.safetensors.
        settings: The captioner's graph encoder.
        pairs_sha256: SHA-256 of the pairs.jsonl whose captions it must be made of; None: any.
        weights: Whether the pretrained weights are wanted.

    Raises:
        CacheError: graph.h5 is missing or damaged, belongs to another graph.json or other pairs, has no node features,
            or holds what is no number.
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
    pretrained = None
    if weights and settings.pretrained_graph:
        pretrained = _pretrained(folder / ENCODER, settings.graph_encoder, digests[GRAPH])
        digests[ENCODER] = sha256_file(folder / ENCODER)
    return GraphSource(tensors, pretrained, digests)


def _pretrained(path: Path, wanted: GraphEncoderSettings, graph_sha256: str) -> Mapping[str, Tensor]:
    weights, about = load_tensors(path, fix=f"{_GRAPH_AGAIN}, or set {_NOT_PRETRAINED}")
    if about.get("graph_sha256") != graph_sha256:
        raise CheckpointError("the encoder was pretrained on another graph", where=path, fix=_GRAPH_AGAIN)
    try:
        there = GraphEncoderSettings.model_validate(about.get("encoder"))
    except ValidationError as error:
        raise CheckpointError(
            "the encoder has settings that this version does not know", where=path, fix=_GRAPH_AGAIN
        ) from error
    names = (*_OF_ALL, *_OF_KIND.get(wanted.kind, ()))
    different = [name for name in names if getattr(there, name) != getattr(wanted, name)]
    if different:
        set_to = there.model_dump(mode="json", include=set(different))
        values = ", ".join(f"{name}: {set_to[name]}" for name in different)
        raise SettingsError(
            f"the pretrained graph encoder differs from the captioner's in {', '.join(different)}",
            where="train.captioner.evidence.graph_encoder",
            fix=f"set there {values}; or set graph.encoder to the captioner's and run `sagecc graph`; or set "
            f"{_NOT_PRETRAINED}",
        )
    return weights
