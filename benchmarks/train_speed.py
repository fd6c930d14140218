"""Training from cached scene features against decoding images and running the frozen ResNet-101 in each step.

Both sides train the same captioner on the same pairs with the same optimizer, 32 pairs a step; the unit is pairs per
second. The image side does what a trainer without a cache does: it decodes the PNG files of both dates, with threads
that work ahead of the step, and runs the backbone without gradients, in its faster memory layout. Backbone weights are
random: speed does not depend on them.

What a step from the cache costs is arithmetic of the captioner alone: the ratio falls as the captioner grows and as a
step learns from more captions of each pair. It is given for two: `vs_images` for a captioner of width 128 and a
step of 32 pairs, one caption of each; `vs_images_default` for the default settings, widths of 256 and all five
captions of each pair. On a GPU, names end in `_gpu` and the default settings alone are measured.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._training import BATCH, SHAPE, SIDE, VOCABULARY, Side, captions, features, trainer
from benchmarks.harness import Figures, interleaved
from pipeline.captioners.settings import SageCCSettings
from pipeline.datasets.images import read_rgb
from pipeline.runtime import deterministic
from pipeline.training.batches import Batch, BatchLoader, Step
from pipeline.training.model import PairCaptioner, build_model
from pipeline.training.settings import CaptionsPerPair
from pipeline.training.stores import store_array
from pipeline.vision.scenes.backbones import Backbone, build_backbone, normalise
from pipeline.vision.scenes.settings import BackboneSettings

BARS = {"vs_images": 20.0, "data_wait_share": 0.02}


@dataclass(frozen=True)
class _Training:
    """What is trained, and from which captions of a pair a step learns."""

    captioner: SageCCSettings
    captions_per_pair: CaptionsPerPair


_SMALL = _Training(SageCCSettings.model_validate({"scene": {"width": 128}, "decoder": {"width": 128}}), "one")
_DEFAULT = _Training(SageCCSettings(), "all")


@dataclass(frozen=True)
class _Work:
    """How much each side does in a round.

    Attributes:
        pairs: Pairs in the cache.
        files: Pairs on disk as images; a pair of the cache beyond them reads one of these.
        cache_steps: Steps of the cache side.
        image_steps: Steps of the image side.
        image_batch: Pairs in each of them.
        rounds: How often both are measured.
    """

    pairs: int
    files: int
    cache_steps: int
    image_steps: int
    image_batch: int
    rounds: int


def run(*, quick: bool = False) -> Figures:
    """Measure; quick takes fewer rounds, and on a CPU shorter steps on the image side."""
    small = _Work(2 * BATCH, 8, 2, 1, 8, 3) if quick else _Work(4 * BATCH, BATCH, 4, 1, BATCH, 5)
    figures = _measure(torch.device("cpu"), {"": _SMALL, "_default": _DEFAULT}, small)
    if torch.cuda.is_available():
        large = _Work(1024, 256, 64, 4, BATCH, 3 if quick else 7)
        figures |= _measure(torch.device("cuda"), {"_gpu": _DEFAULT}, large)
    return figures


def _measure(device: torch.device, trainings: dict[str, _Training], work: _Work) -> Figures:
    with tempfile.TemporaryDirectory() as folder, deterministic(device):
        loader = BatchLoader(
            {"scenes": store_array(features(Path(folder), work.pairs), device)}, captions(work.pairs), device
        )
        files = _write_images(Path(folder), work.files)
        backbone = _backbone(device)
        sides: dict[str, Side] = {}
        for name, training in trainings.items():
            samples, train = training.captions_per_pair, trainer(_model(training.captioner, device))
            sides[f"cache{name}"] = Side(loader, work.cache_steps, BATCH, samples, train, loader.batches)

            def from_images(steps: Sequence[Step]) -> Iterator[Batch]:
                return _image_batches(steps, files, backbone, loader, device)

            sides[f"images{name}"] = Side(loader, work.image_steps, work.image_batch, samples, train, from_images)
        measured = interleaved(sides, work.rounds)
    figures: Figures = {}
    for name in trainings:
        ratio = measured.ratio(f"cache{name}", f"images{name}")
        side = sides[f"cache{name}"]
        figures |= ratio.figures(f"vs_images{name}")
        figures[f"data_wait{name}_share"] = side.waited / side.seconds
        figures[f"cache{name}_pairs_per_second"] = ratio.a
        figures[f"images{name}_pairs_per_second"] = ratio.b
    return figures


def _model(captioner: SageCCSettings, device: torch.device) -> PairCaptioner:
    return build_model(captioner, VOCABULARY, {"scenes": SHAPE}, seed=0, bf16=device.type == "cuda").to(device).train()


def _image_batches(
    steps: Sequence[Step],
    files: Sequence[tuple[Path, Path]],
    backbone: Backbone,
    loader: BatchLoader,
    device: torch.device,
) -> Iterator[Batch]:
    settings = BackboneSettings.model_validate({"backbone": "resnet101"})
    with ThreadPoolExecutor(os.cpu_count()) as readers:

        def start(step: Step) -> list[Iterator[NDArray[np.uint8]]]:
            return [readers.map(read_rgb, files[int(pair) % len(files)]) for pair in step.pairs]

        reading = [start(step) for step in steps[:2]]
        for index, step in enumerate(steps):
            images = np.stack([np.stack(list(pair)) for pair in reading.pop(0)])
            if index + 2 < len(steps):
                reading.append(start(steps[index + 2]))
            with _frozen(device):
                inputs = torch.from_numpy(images).to(device).flatten(0, 1).permute(0, 3, 1, 2)
                features: Tensor = backbone(normalise(inputs, settings).contiguous(memory_format=torch.channels_last))
            yield loader.assemble(step, {"scenes": features.view(len(step.pairs), 2, *SHAPE)})


@contextmanager
def _frozen(device: torch.device) -> Iterator[None]:
    """No gradients, and none of the limits that reproducible training sets: the image side at its fastest."""
    strict, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warned)
        torch.backends.cudnn.benchmark = False


def _backbone(device: torch.device) -> Backbone:
    # The channels-last layout is the faster one on CPUs and on GPUs: the image side gets the best form of its work.
    backbone: Any = build_backbone("resnet101", None)
    channels_last: Backbone = backbone.to(device=device, memory_format=torch.channels_last)
    return channels_last


def _write_images(folder: Path, pairs: int) -> list[tuple[Path, Path]]:
    """Write pairs of PNG files that compress as aerial images do: smooth ground with some noise."""
    from PIL import Image

    random = np.random.default_rng(2)
    files = []
    for pair in range(pairs):
        names = (folder / f"{pair}-before.png", folder / f"{pair}-after.png")
        for name in names:
            coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            ground = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.int16)
            pixels = (ground + random.integers(-12, 13, ground.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(name)
        files.append(names)
    return files
