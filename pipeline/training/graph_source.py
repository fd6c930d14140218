"""The caption graph as a training takes it: tensors, and the pretrained weights of its encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from pipeline.captioners.fusion_settings import EvidenceSettings
from pipeline.errors import CacheError, CheckpointError, SettingsError
from pipeline.files import sha256_file
from pipeline.graphs.settings import GraphEncoderSettings
from pipeline.graphs.tensors import GraphTensors, tensors_of
from pipeline.language.graph.store import GRAPH, TENSORS, read_graph, read_tensors
from pipeline.training.tensors import load_tensors

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
