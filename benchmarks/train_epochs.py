"""Training at LEVIR-CC's true size: what an epoch takes, and what share of the device's arithmetic it reaches.

6,815 pairs with five captions each, steps of 32 pairs, random features of the true shapes:

- `scenes`: the captioner of scenes alone with the default settings, all five captions in each step;
- `full`: the same with `fusion: paper`, 20 unmatched and 20 semantic regions of 256 channels a pair, a graph
  of 60 nodes;
- `published`: `full` in the size and with the captions per step of the profile `levir-cc`;
- `tags`: the captioner of the profile `levir-cc-tags`, 18 tags a pair, one caption in each step;
- `finetuned`: `scenes` with ResNet-101 trained along from layer2 on, images at hand as arrays.

Rates are measured in turns, round by round, in one process. `epoch_seconds` and `minutes_of_50_epochs` follow from the
median rate. `peak_share` is the arithmetic of a step, counted by torch (multiplications and additions of matrix
products and convolutions), over its time, against a square matrix product that is timed in the same turns, in the same
precision and with the same threads. `gathered_mib` is what a step copies from the store. A CPU trains on a few steps
(with the backbone of 2 pairs); a GPU holds all 6,815 pairs and trains for whole epochs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._training import BATCH, CAPTIONS, SHAPE, SIDE, VOCABULARY, Side, captions, features, trainer
from benchmarks.harness import Figures, interleaved, rate
from pipeline.captioners.inputs import Regions
from pipeline.captioners.settings import CaptionerSettings, SageCCSettings
from pipeline.config import parse_section
from pipeline.graph_encoders.tensors import GraphTensors
from pipeline.runtime import deterministic
from pipeline.training.batches import BatchLoader, plan_epoch
from pipeline.training.model import ImageFront, build_model
from pipeline.training.settings import CaptionsPerPair, TrainSettings
from pipeline.training.stores import GraphStore, PackedRegions, PairArray, RegionStore, Store, store_array
from pipeline.vision.scenes.settings import BackboneSettings
from stages.profiles import profiles

BARS = {"tags_epochs_a_minute": 1.0}

_PAIRS = 6815  # of LEVIR-CC's training split
_EPOCHS = 50
_RELATIONS = 12
_NODE_FEATURES = 384


@dataclass(frozen=True)
class _Training:
    """One line of the table.

    Attributes:
        captioner: What is trained.
        captions_per_pair: From which captions of a pair a step learns.
        images: Whether it trains on images, the backbone along.
        regions: Unmatched regions of a pair.
        semantics: Semantic regions of a pair.
        width: Channels of either.
        nodes: Nodes of the graph.
    """

    captioner: CaptionerSettings
    captions_per_pair: CaptionsPerPair = "all"
    images: bool = False
    regions: int = 0
    semantics: int = 0
    width: int = 256
    nodes: int = 0


def run(*, quick: bool = False) -> Figures:
    """Measure; quick takes fewer rounds and steps."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps, rounds = (_PAIRS // BATCH, 3) if device.type == "cuda" else (2 if quick else 6, 3 if quick else 5)
    full = SageCCSettings.model_validate({"fusion": "paper"})
    tags = parse_section(profiles()["levir-cc-tags"]["train"], "train", TrainSettings).captioner
    published = parse_section(profiles()["levir-cc"]["train"], "train", TrainSettings)
    trainings = {
        "scenes": _Training(SageCCSettings()),
        "full": _Training(full, regions=20, semantics=20, nodes=60),
        "published": _Training(
            published.captioner, captions_per_pair=published.captions_per_pair, regions=20, semantics=20, nodes=60
        ),
        "tags": _Training(tags, captions_per_pair="one", semantics=18, width=384),
        "finetuned": _Training(SageCCSettings(), images=True),
    }
    with tempfile.TemporaryDirectory() as folder, deterministic(device):
        sides: dict[str, Callable[[], float]] = {"peak": _peak(device)}
        trained = {}
        for name, training in trainings.items():
            # On a CPU a step with the backbone takes minutes at full size.
            few = training.images and device.type == "cpu"
            one = few or (name == "published" and device.type == "cpu")
            side = _side(training, device, Path(folder) / name, 1 if one else steps, 2 if few else BATCH)
            trained[name] = side
            sides[name] = side
        measured = interleaved(sides, rounds)
        figures: Figures = {"peak_gflop_per_second": measured.median("peak") / 1e9}
        for name, side in trained.items():
            figures |= _figures(name, side, measured.median(name), measured.median("peak"))
    figures["vs_finetuned"] = measured.ratio("scenes", "finetuned").value
    figures["tags_epochs_a_minute"] = 60 / figures["tags_epoch_seconds"]
    return figures


def _figures(name: str, side: Side, samples_per_second: float, peak: float) -> Figures:
    # Where every caption is a sample of its own, an epoch sees each pair as often as it has captions.
    samples = CAPTIONS if side.captions_per_pair == "each" else 1
    pairs_per_second = samples_per_second / samples
    plan = plan_epoch(
        side.loader.captions, batch_size=side.batch, captions_per_pair=side.captions_per_pair, seed=0, epoch=0
    )
    batch = next(iter(side.batches(plan[:1])))
    with FlopCounterMode(display=False) as counter:
        side.train(batch)
    work = counter.get_total_flops() / side.batch
    gathered = sum(values.nbytes for name, values in batch.inputs.items() if name != "graph")
    return {
        f"{name}_pairs_per_second": pairs_per_second,
        f"{name}_epoch_seconds": _PAIRS / pairs_per_second,
        f"{name}_minutes_of_50_epochs": _EPOCHS * _PAIRS / pairs_per_second / 60,
        f"{name}_data_wait_share": side.waited / side.seconds,
        f"{name}_gflop_per_pair": work * samples / 1e9,
        f"{name}_pflop_of_50_epochs": _EPOCHS * _PAIRS * work * samples / 1e15,
        f"{name}_gathered_mib": gathered / 2**20,
        f"{name}_peak_share": work * samples_per_second / peak,
    }


def _peak(device: torch.device) -> Callable[[], float]:
    """Return a side that gives the floating-point operations a second of a large matrix product."""
    gpu = device.type == "cuda"
    size = 8192 if gpu else 1536
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16 if gpu else torch.float32) for _ in range(2))

    def product() -> None:
        for _ in range(20 if gpu else 4):
            torch.mm(a, b)
        if gpu:
            torch.cuda.synchronize()

    return rate(product, (20 if gpu else 4) * 2.0 * size**3)


def _side(training: _Training, device: torch.device, folder: Path, steps: int, batch: int) -> Side:
    folder.mkdir()
    pairs = _PAIRS if device.type == "cuda" and not training.images else 4 * BATCH
    front = ImageFront(BackboneSettings(backbone="resnet101"), None, "trained") if training.images else None
    stores = _stores(training, pairs, device, folder)
    shapes: dict[str, tuple[int, ...]] = {"scenes": SHAPE, "graph": (_NODE_FEATURES, _RELATIONS)}
    shapes |= {"regions": (training.width,), "semantics": (training.width,)}
    model = build_model(training.captioner, VOCABULARY, shapes, seed=0, bf16=device.type == "cuda", front=front)
    loader = BatchLoader(stores, captions(pairs), device)
    return Side(loader, steps, batch, training.captions_per_pair, trainer(model.to(device).train()), loader.batches)


def _stores(training: _Training, pairs: int, device: torch.device, folder: Path) -> dict[str, Store[Any]]:
    """Return random inputs of the shapes that `training` names, by the name of their source."""
    generator = torch.Generator().manual_seed(0)

    def regions(count: int, *, centroids: bool) -> PackedRegions:
        padded = Regions(
            torch.randn(pairs, count, training.width, generator=generator).half(),
            torch.ones(pairs, count, dtype=torch.bool),
            dates=torch.randint(2, (pairs, count), generator=generator),
            centroids=torch.rand(pairs, count, 2, generator=generator) if centroids else None,
            scores=torch.rand(pairs, count, generator=generator),
        )
        return PackedRegions.of(padded)

    stores: dict[str, Store[Any]] = {}
    if training.images:
        stores["images"] = store_array(_images(pairs), device)
    elif "scenes" in training.captioner.input_names():
        stores["scenes"] = store_array(features(folder, pairs), device)
    if training.regions:
        stores["regions"] = RegionStore(regions(training.regions, centroids=True), "regions", device)
    if training.semantics:
        stores["semantics"] = RegionStore(regions(training.semantics, centroids=False), "semantics", device)
    if training.nodes:
        edges = 6 * training.nodes
        graph = GraphTensors(
            torch.randn(training.nodes, _NODE_FEATURES, generator=generator),
            torch.randint(training.nodes, (2, edges), generator=generator),
            torch.randint(_RELATIONS, (edges,), generator=generator),
            _RELATIONS,
        )
        stores["graph"] = GraphStore(graph, device)
    return stores


def _images(pairs: int) -> PairArray:
    array = np.random.default_rng(3).integers(0, 256, (pairs, 2, 3, SIDE, SIDE), dtype=np.uint8)
    rows = np.arange(pairs, dtype=np.int64)
    return PairArray(array, rows, [str(row) for row in rows], "arrays")
