"""The caches that a fused captioner reads beside the scenes: opened, and found to belong together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.cache import Cache, Expectation, Schema
from pipeline.captioners.evidence import EvidenceWidths
from pipeline.captioners.fusion_settings import EvidenceSettings
from pipeline.captioners.settings import CaptionerSettings
from pipeline.datasets.records import Prepared
from pipeline.errors import CacheError
from pipeline.files import sha256_file
from pipeline.training.evidence_card import CacheCard, EvidenceCard, masks_beside
from pipeline.training.graph_source import GraphSource, read_source
from pipeline.training.inputs import check_pairs
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.matching.cache import SCHEMA as MATCHES
from pipeline.vision.regions.cache import SCHEMA as REGIONS
from pipeline.vision.sam.cache import SCHEMA as MASKS


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
