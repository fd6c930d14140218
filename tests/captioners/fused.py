"""Captioners with a fusion, and side inputs for them, small enough for plain loops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from pipeline.captioners.inputs import Regions
from pipeline.captioners.sage_cc import SageCC
from pipeline.captioners.settings import SageCCSettings
from pipeline.graph_encoders.tensors import GraphTensors
from tests.captioners.small import SCENE, VOCABULARY, stir

SHAPES = {"scenes": SCENE, "regions": (5,), "semantics": (7,), "graph": (6, 4)}


def fused_settings(fusion: str, **changes: Any) -> SageCCSettings:
    """`changes` by section; those of `inputs.graph_encoder` are named graph_encoder."""
    encoder = {"widths": (10, 6), **changes.get("graph_encoder", {})}
    return SageCCSettings.model_validate(
        {
            "fusion": fusion,
            "scene": {"width": 8, "heads": 2, "blocks": 1, "channels": 12},
            "decoder": {"width": 8, "heads": 2, "layers": 2, "feedforward": 2, **changes.get("decoder", {})},
            "inputs": {"graph_encoder": encoder, **changes.get("inputs", {})},
            "paper": {"region_width": 6, "centroid_width": 8, "centroid_waves": 4, **changes.get("paper", {})},
            "release": {"heads": 2, "feedforward": 2, **changes.get("release", {})},
        }
    )


def make_fused(fusion: str, *, vocabulary: int = VOCABULARY, seed: int = 0, **changes: Any) -> SageCC:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SageCC(fused_settings(fusion, **changes), vocabulary, SHAPES)
        stir(model)
    return model.eval()


def make_regions(counts: tuple[int, ...], width: int, seed: int) -> Regions:
    generator = torch.Generator().manual_seed(seed)
    return Regions.padded(
        [torch.randn(count, width, generator=generator) for count in counts],
        dates=[torch.randint(2, (count,), generator=generator) for count in counts],
        centroids=[torch.rand(count, 2, generator=generator) for count in counts],
        scores=[torch.rand(count, generator=generator) for count in counts],
        rows=[torch.randperm(count, generator=generator) for count in counts],
    )


def make_graph(nodes: int = 5, edges: int = 12, seed: int = 7) -> GraphTensors:
    generator = torch.Generator().manual_seed(seed)
    return GraphTensors(
        torch.randn(nodes, 6, generator=generator),
        torch.randint(nodes, (2, edges), generator=generator),
        torch.randint(4, (edges,), generator=generator),
        4,
    )


def make_side_inputs(
    regions: tuple[int, ...] = (2, 0, 4), semantics: tuple[int, ...] = (3, 1, 0), *, seed: int = 0
) -> dict[str, Any]:
    """Everything but the scenes, by the name of its source; the arguments are numbers of regions."""
    return {
        "regions": make_regions(regions, 5, seed + 10),
        "semantics": make_regions(semantics, 7, seed + 20),
        "graph": make_graph(),
    }


def select(inputs: Mapping[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """The inputs of the pairs `rows`; all pairs share the graph."""

    def of_pairs(value: Any) -> Any:
        if isinstance(value, Regions):
            return value.select(rows)
        return value[rows] if isinstance(value, torch.Tensor) else value

    return {name: of_pairs(value) for name, value in inputs.items()}


def on_device(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    def moved(value: Any) -> Any:
        if not isinstance(value, GraphTensors):
            return value.to(device)
        return GraphTensors(*(x.to(device) for x in (value.features, value.edge_index, value.edge_type)), 4)

    return {name: moved(value) for name, value in inputs.items()}


def padded_further(regions: Regions, more: int) -> Regions:
    """The same regions behind `more` rows of garbage per pair."""
    pairs, _, width = regions.features.shape

    def behind(tensor: torch.Tensor | None, garbage: float) -> torch.Tensor | None:
        if tensor is None:
            return None
        rows = torch.full((pairs, more, *tensor.shape[2:]), garbage).to(tensor.dtype)
        return torch.cat([rows, tensor], dim=1)

    return Regions(
        torch.cat([torch.full((pairs, more, width), torch.nan), regions.features], dim=1),
        torch.cat([torch.zeros(pairs, more, dtype=torch.bool), regions.mask], dim=1),
        dates=behind(regions.dates, 9),
        centroids=behind(regions.centroids, torch.nan),
        scores=behind(regions.scores, torch.nan),
        rows=behind(regions.rows, -7),
    )


def shuffled(regions: Regions, seed: int = 0) -> Regions:
    """The same regions, in another order for each pair, padding among them."""
    generator = torch.Generator().manual_seed(seed)
    pairs, count = regions.mask.shape
    order = torch.stack([torch.randperm(count, generator=generator) for _ in range(pairs)])
    rows = torch.arange(pairs)[:, None]
    return replace(regions, **{name: getattr(regions, name)[rows, order] for name in regions.__dataclass_fields__})
