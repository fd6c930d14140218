"""Tiny caches of regions, matches and semantics, and a tiny graph, for the pairs of `world`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.cache.reader import cache_sha256
from pipeline.cache.schema import Provenance, Schema
from pipeline.cache.writer import pack
from pipeline.caption_graph.build import rebuild
from pipeline.caption_graph.merging import MergeMap
from pipeline.caption_graph.store import SCHEMA as GRAPH
from pipeline.caption_graph.store import write_graph as write_graph_json
from pipeline.caption_graph.store import write_tensors
from pipeline.captioners.settings import SageCCSettings
from pipeline.datasets.records import read_prepared
from pipeline.files import content_key, sha256_file
from pipeline.graph_encoders.encoders import GraphEncoder
from pipeline.graph_encoders.settings import GraphEncoderSettings
from pipeline.paths import Paths
from pipeline.training.region_inputs import ENCODER
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.matching.cache import SCHEMA as MATCHES
from pipeline.vision.matching.cache import pair_arrays
from pipeline.vision.matching.settings import AssignmentSettings
from pipeline.vision.regions.cache import SCHEMA as REGIONS
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.weights import save_tensors
from tests.worlds import world
from tests.worlds.region_data import mask_set, units_of

COUNTS = ((4, 3), (0, 0), (2, 5), (1, 0), (3, 3), (0, 2))
"""Masks before and after of each pair; pair 1 has none at all."""
NAMED = ((2, 3), (1, 0), (0, 0), (3, 3), (4, 1), (2, 2))
"""Semantic regions before and after; pair 2 has none at all."""
WIDTH, EMBEDDING, NODE, PROMPTS, RELATIONS = 6, 5, 4, 3, 3
GRID_CHANNELS = 2
SIZE = (64, 128)
"""Height and width of every image."""
MAP_SIZE = (2, 4)
"""Height and width of every semantic map."""
ENCODER_SETTINGS = GraphEncoderSettings(widths=(8, 6))

Arrays = dict[str, Any]
Spoil = Callable[[int, Arrays], None]
"""Changes the arrays of a unit before they are written."""


def captioner(fusion: str = "paper", **inputs: Any) -> SageCCSettings:
    """A tiny captioner with a fusion; `inputs` changes what it reads."""
    return SageCCSettings.model_validate(
        {
            **world.TINY.model_dump(),
            "fusion": fusion,
            "inputs": {"graph_encoder": ENCODER_SETTINGS.model_dump(), **inputs},
            "paper": {"region_width": 8, "centroid_width": 8, "centroid_waves": 4},
            "release": {"heads": 2, "feedforward": 2},
        }
    )


def paths(folder: Path) -> Paths:
    """Where `write_all` and the fixtures of conftest write."""
    caches = {name: folder / f"{name}.h5" for name in ("scenes", "masks", "regions", "matches", "semantics")}
    return Paths.under(folder).at(
        prepared=folder / "prepared", graph=folder / "graph", models=folder / "models", **caches
    )


def write_all(folder: Path, prepared: Path) -> Paths:
    """Write the caches of regions, matches and semantics, and the graph of a prepared data set."""
    written = paths(folder).at(prepared=prepared)
    write_regions(written.regions, prepared)
    write_matches(written.matches, written.regions, prepared)
    write_semantics(written.semantics, prepared)
    write_graph(written.graph, prepared)
    return written


def write_masks(path: Path, prepared: Path, **options: Any) -> Path:
    """Write masks.h5 as it lies beside the regions; nothing but its description is read."""

    def arrays(unit: int) -> Arrays:
        nothing = mask_set(np.zeros((0, *SIZE), np.bool_)).arrays()
        return {**nothing, "embedding": np.zeros((0, 0, 0), np.float16)}

    return _write(path, MASKS, prepared, arrays, 2, **options)


def write_regions(path: Path, prepared: Path, *, masks: Path | None = None, **options: Any) -> Path:
    upstream = {"masks.h5": "0" * 64 if masks is None else cache_sha256(masks, MASKS)}
    return _write(path, REGIONS, prepared, _region_arrays, 2, upstream=upstream, **options)


def write_matches(
    path: Path,
    regions: Path,
    prepared: Path,
    *,
    assignment: AssignmentSettings = AssignmentSettings(),  # noqa: B008 - frozen
    **options: Any,
) -> Path:
    def arrays(pair: int) -> Arrays:
        return pair_arrays(confidences(pair), assignment)

    settings = {"assignment": assignment.model_dump(mode="json")}
    upstream = {"regions.h5": cache_sha256(regions, REGIONS)}
    return _write(path, MATCHES, prepared, arrays, 1, upstream=upstream, pairs=False, settings=settings, **options)


def write_semantics(path: Path, prepared: Path, **options: Any) -> Path:
    return _write(path, SEMANTICS, prepared, _semantic_arrays, 2, **options)


def write_graph(
    folder: Path,
    prepared: Path,
    *,
    encoder: GraphEncoderSettings = ENCODER_SETTINGS,
    width: int = NODE,
    engine: str = "rules",
) -> Path:
    """Write graph.json, graph.h5, and an encoder with random weights."""
    statements = [("house", "build-along", "road"), ("tree", "remove", "scene"), ("road", "replace", "tree")]
    graph = rebuild(statements, 1, MergeMap()).graph
    features = np.random.default_rng(3).normal(size=(len(graph.entities), width)).astype(np.float32)
    pairs = sha256_file(prepared / "pairs.jsonl")
    write_graph_json(folder / "graph.json", graph, {"engine": engine, "pairs_sha256": pairs})
    digest = sha256_file(folder / "graph.json")
    provenance = Provenance("graph", GRAPH.version, {}, "0" * 64, upstream={"pairs.jsonl": pairs, "graph.json": digest})
    write_tensors(folder / "graph.h5", graph, features, provenance)
    if width:
        write_encoder(folder, encoder, width)
    return folder


def write_encoder(
    folder: Path, encoder: GraphEncoderSettings = ENCODER_SETTINGS, width: int = NODE, *, seed: int = 11
) -> Path:
    """Write an encoder with random weights for the graph in `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = GraphEncoder(encoder, width, RELATIONS).state_dict()
    about = {"encoder": encoder.model_dump(mode="json"), "graph_sha256": sha256_file(folder / "graph.json")}
    return save_tensors(folder / ENCODER, weights, about)


def spoil(path: Path, row: NDArray[Any], value: float) -> None:
    """Write `value` into a row of a cache behind its back: no stage would write one that is no number."""
    changed = row.copy()
    changed[1] = value
    data = path.read_bytes()
    assert data.count(row.tobytes()) == 1
    path.write_bytes(data.replace(row.tobytes(), changed.tobytes()))


def confidences(pair: int) -> NDArray[np.float16]:
    """Confidences of a pair: many around the thresholds that are tried."""
    return (np.random.default_rng(100 + pair).random(COUNTS[pair]) ** 6).astype(np.float16)


def without_maps(unit: int, arrays: Arrays) -> None:
    """Semantic regions that were imported: without maps."""
    arrays["map"] = arrays["map_score"] = np.zeros((0, 0), np.uint8)


def with_grids(unit: int, arrays: Arrays) -> None:
    """Regions that keep their 7×7 grids, of `GRID_CHANNELS` channels."""
    shape = (len(arrays["boxes"]), GRID_CHANNELS, 7, 7)
    arrays["grids"] = np.random.default_rng(200 + unit).normal(size=shape).astype(np.float16)


def _region_arrays(unit: int) -> Arrays:
    random, count = np.random.default_rng(unit), COUNTS[unit // 2][unit % 2]
    height, width = SIZE
    return {
        "descriptors": random.normal(size=(count, WIDTH)).astype(np.float16),
        "grids": np.zeros((count, 0, 7, 7), np.float16),
        "boxes": np.zeros((count, 4), np.float32),
        "centroids": (random.random((count, 2)) * (width, height)).astype(np.float32),
        "areas": np.ones(count, np.int32),
        "scores": np.linspace(0.99, 0.9, count, dtype=np.float32),
        "size": np.array(SIZE, np.int32),
    }


def _semantic_arrays(unit: int) -> Arrays:
    random, count = np.random.default_rng(50 + unit), NAMED[unit // 2][unit % 2]
    return {
        "boxes": np.zeros((count, 4), np.float32),
        "scores": np.linspace(0.9, 0.5, count, dtype=np.float32),
        "category": np.zeros(count, np.int32),
        "runs": np.zeros(count, np.int32),
        "counts": np.zeros(0, np.uint32),
        "embeddings": random.normal(size=(count, EMBEDDING)).astype(np.float16),
        "descriptors": np.zeros((count, 2), np.float16),
        "similarity": random.uniform(-1, 1, (count, PROMPTS)).astype(np.float16),
        "selected": (random.random(count) < 0.7).astype(np.uint8),
        "map": np.random.default_rng(300 + unit).integers(0, PROMPTS + 1, MAP_SIZE, dtype=np.uint8),
        "map_score": np.zeros(MAP_SIZE, np.uint8),
        "size": np.array(SIZE, np.int32),
    }


def _write(
    path: Path,
    schema: Schema,
    prepared: Path,
    arrays: Callable[[int], Arrays],
    dates: int,
    *,
    upstream: dict[str, str] | None = None,
    pairs: bool = True,
    settings: dict[str, Any] | None = None,
    weights: str = "0" * 64,
    missing: Sequence[int] = (),
    ids: Sequence[str] | None = None,
    spoil: Spoil = lambda unit, arrays: None,
) -> Path:
    ids = ids or [pair.id for pair in read_prepared(prepared).pairs]
    units: list[Arrays | None] = []
    for unit in range(dates * len(ids)):
        values = arrays(unit)
        spoil(unit, values)
        units.append(None if unit in missing else values)
    own = {"pairs.jsonl": sha256_file(prepared / "pairs.jsonl")} if pairs else {}
    settings = settings or {}
    provenance = Provenance(
        stage=schema.stage,
        schema_version=schema.version,
        settings=settings,
        settings_hash=content_key(settings),
        weights={"sam": weights},
        upstream=own | (upstream or {}),
    )
    return pack(path, schema, provenance, ids, units_of(schema, units))
