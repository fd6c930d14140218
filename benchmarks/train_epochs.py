"""Training at LEVIR-CC's true size: what an epoch takes, and what share of the device's arithmetic it reaches.

6,815 pairs with five captions each, steps of 32 pairs, random features of the true shapes:

- `scenes`: the captioner of scenes alone with the default settings, all five captions in each step;
- `full`: the same with `fusion: paper`, 20 motion and 20 semantic regions of 256 channels a pair, a graph of 60 nodes;
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

from benchmarks._training import BATCH, SHAPE, SIDE, VOCABULARY, Side, captions, features, trainer
from benchmarks.harness import Figures, interleaved, rate
from pipeline.captioners.inputs import Evidence, Regions
from pipeline.captioners.scene_encoder import NO_SCENES
from pipeline.captioners.settings import CaptionerSettings
from pipeline.config import parse_section
from pipeline.graph_encoders.encoders import GraphTensors
from pipeline.runtime import deterministic
from pipeline.training.batches import Feed, plan_epoch
from pipeline.training.model import ImageFront, build_model
from pipeline.training.settings import TrainSettings
from pipeline.training.stores import EvidenceStore, PairSource, open_store
from pipeline.vision.scenes.settings import BackboneSettings
from stages.profiles import PROFILES

BARS = {"tags_epochs_a_minute": 1.0}

_PAIRS = 6815  # of LEVIR-CC's training split
_EPOCHS = 50
_RELATIONS = 12


@dataclass(frozen=True)
class _Training:
    """One line of the table.

    Attributes:
        captioner: What is trained.
        one_caption: Whether a step learns from one caption of each pair.
        images: Whether it trains on images, the backbone along.
        motion: Motion regions of a pair.
        semantics: Semantic regions of a pair.
        width: Channels of either.
        nodes: Nodes of the graph.
    """

    captioner: CaptionerSettings
    one_caption: bool = False
    images: bool = False
    motion: int = 0
    semantics: int = 0
    width: int = 256
    nodes: int = 0


def run(*, quick: bool = False) -> Figures:
    """Measure; quick takes fewer rounds and steps."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps, rounds = (_PAIRS // BATCH, 3) if device.type == "cuda" else (2 if quick else 6, 3 if quick else 5)
    full = CaptionerSettings.model_validate({"fusion": "paper"})
    tags = parse_section(PROFILES["levir-cc-tags"]["train"], "train", TrainSettings).captioner
    trainings = {
        "scenes": _Training(CaptionerSettings()),
        "full": _Training(full, motion=20, semantics=20, nodes=60),
        "tags": _Training(tags, one_caption=True, semantics=18, width=384),
        "finetuned": _Training(CaptionerSettings(), images=True),
    }
    with tempfile.TemporaryDirectory() as folder, deterministic(device):
        sides: dict[str, Callable[[], float]] = {"peak": _peak(device)}
        trained = {}
        for name, training in trainings.items():
            # On a CPU a step with the backbone takes minutes at full size.
            few = training.images and device.type == "cpu"
            side = _side(training, device, Path(folder) / name, 1 if few else steps, 2 if few else BATCH)
            trained[name] = side
            sides[name] = side
        measured = interleaved(sides, rounds)
        figures: Figures = {"peak_gflop_per_second": measured.median("peak") / 1e9}
        for name, side in trained.items():
            figures |= _figures(name, side, measured.median(name), measured.median("peak"))
    figures["vs_finetuned"] = measured.ratio("scenes", "finetuned").value
    figures["tags_epochs_a_minute"] = 60 / figures["tags_epoch_seconds"]
    return figures


def _figures(name: str, side: Side, pairs_per_second: float, peak: float) -> Figures:
    plan = plan_epoch(side.feed.captions, batch_size=side.batch, one_caption=side.one_caption, seed=0, epoch=0)
    batch = next(iter(side.batches(plan[:1])))
    with FlopCounterMode(display=False) as counter:
        side.train(batch)
    work = counter.get_total_flops() / side.batch
    evidence = batch.evidence
    parts = [] if evidence is None else [evidence.motion, evidence.semantics]
    gathered = batch.inputs.nbytes + sum(regions.nbytes for regions in parts if regions is not None)
    return {
        f"{name}_pairs_per_second": pairs_per_second,
        f"{name}_epoch_seconds": _PAIRS / pairs_per_second,
        f"{name}_minutes_of_50_epochs": _EPOCHS * _PAIRS / pairs_per_second / 60,
        f"{name}_data_wait_share": side.waited / side.seconds,
        f"{name}_gflop_per_pair": work / 1e9,
        f"{name}_gathered_mib": gathered / 2**20,
        f"{name}_peak_share": work * pairs_per_second / peak,
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
    captioner = training.captioner
    without = captioner.scene.features == "none"
    front = ImageFront(BackboneSettings(backbone="resnet101"), None, "trained") if training.images else None
    evidence = _evidence(training, pairs)
    model = build_model(
        captioner,
        VOCABULARY,
        NO_SCENES if without else SHAPE,
        seed=0,
        bf16=device.type == "cuda",
        widths=evidence.widths,
        front=front,
    )
    train = trainer(model.to(device).train())
    source = _nothing(pairs) if without else _images(pairs) if training.images else features(folder, pairs)
    known = None if captioner.fusion == "none" else EvidenceStore(evidence, device)
    feed = Feed(open_store(source, device), captions(pairs), known)
    return Side(feed, steps, batch, training.one_caption, train, feed.batches)


def _evidence(training: _Training, pairs: int) -> Evidence:
    """Return random evidence of the shapes that `training` names."""
    generator = torch.Generator().manual_seed(0)

    def regions(count: int, *, centroids: bool) -> Regions | None:
        if not count:
            return None
        return Regions(
            torch.randn(pairs, count, training.width, generator=generator).half(),
            torch.ones(pairs, count, dtype=torch.bool),
            dates=torch.randint(2, (pairs, count), generator=generator),
            centroids=torch.rand(pairs, count, 2, generator=generator) if centroids else None,
            scores=torch.rand(pairs, count, generator=generator),
        )

    graph = None
    if training.nodes:
        edges = 6 * training.nodes
        graph = GraphTensors(
            torch.randn(training.nodes, 384, generator=generator),
            torch.randint(training.nodes, (2, edges), generator=generator),
            torch.randint(_RELATIONS, (edges,), generator=generator),
            _RELATIONS,
        )
    return Evidence(
        motion=regions(training.motion, centroids=True),
        semantics=regions(training.semantics, centroids=False),
        graph=graph,
    )


def _nothing(pairs: int) -> PairSource:
    return _source(np.zeros((pairs, 2, *NO_SCENES), np.float16))


def _images(pairs: int) -> PairSource:
    return _source(np.random.default_rng(3).integers(0, 256, (pairs, 2, 3, SIDE, SIDE), dtype=np.uint8))


def _source(array: np.ndarray[Any, Any]) -> PairSource:
    rows = np.arange(len(array), dtype=np.int64)
    return PairSource(array, rows, [str(row) for row in rows], "arrays")
