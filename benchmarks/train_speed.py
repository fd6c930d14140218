"""Training from cached scene features against decoding images and running the frozen ResNet-101 in each step.

Both sides train the same captioner (the default settings) on the same pairs with the same optimizer and the same steps;
the unit is pairs per second, one step of which learns from all five captions of each of its pairs. The image side does
what a trainer without a cache does: it decodes the PNG files of both dates, with a pool of threads that works ahead of
the step, and runs the backbone without gradients. Backbone weights are random: speed does not depend on them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Figures, interleaved
from pipeline.captioners.settings import CaptionerSettings
from pipeline.datasets.images import read_rgb
from pipeline.training.captions import CaptionTable
from pipeline.training.determinism import deterministic
from pipeline.training.feed import Batch, Feed
from pipeline.training.model import PairCaptioner, build_model
from pipeline.training.places import PairSource, open_store
from pipeline.training.schedule import Step, plan_epoch
from pipeline.vision.backbones import SceneBackbone, build_backbone, normalise
from pipeline.vision.settings import BackboneSettings

BARS = {"vs_images": 20.0, "data_wait_share": 0.02}

_SHAPE = (2048, 8, 8)  # of ResNet-101 at 256 pixels
_SIDE = 256
_VOCABULARY = 500  # words, about LEVIR-CC's
_CAPTIONS = 5  # per pair, as in LEVIR-CC
_WORDS = (5, 16)  # per caption, start and end counted
_BATCH = 32  # the default of the stage `train`


def run(*, quick: bool = False) -> Figures:
    """Measure; see the module's docstring. Quick takes smaller steps of fewer pairs on the image side of a CPU."""
    figures = _measure(torch.device("cpu"), quick=quick)
    if torch.cuda.is_available():
        on_gpu = _measure(torch.device("cuda"), quick=quick)
        figures |= {f"gpu_{name}" if not name.startswith("vs_") else f"{name}_gpu": v for name, v in on_gpu.items()}
    return figures


def _measure(device: torch.device, *, quick: bool) -> Figures:
    rounds = 3 if quick else 5
    cpu = device.type == "cpu"
    pairs = 2 * _BATCH if cpu else 32 * _BATCH
    image_steps = 1 if cpu else 8
    cache_steps = 4 if cpu else 64
    table = _captions(pairs)
    model, joined_step = _trainer(device)
    with tempfile.TemporaryDirectory() as folder, deterministic(device):
        # As many pairs on disk as one step or epoch of the image side reads.
        size = (8 if quick else _BATCH) if cpu else pairs
        files = _write_images(Path(folder), min(size, pairs))
        feed = Feed(open_store(_features(Path(folder), pairs), device), table)
        backbone = _backbone(device)
        epoch = 0
        waits, times = [0.0], [0.0]

        def plan(count: int, batch: int) -> list[Step]:
            nonlocal epoch
            steps: list[Step] = []
            while len(steps) < count:
                steps += plan_epoch(table, batch=batch, one_caption=False, seed=0, epoch=epoch)
                epoch += 1
            return steps[:count]

        def from_cache() -> float:
            steps = plan(cache_steps, _BATCH)
            before, start = feed.waited, time.perf_counter()
            for batch in feed.batches(steps):
                joined_step(batch)
            _finish(device)
            seconds = time.perf_counter() - start
            waits.append(feed.waited - before)
            times.append(seconds)
            return sum(len(step.pairs) for step in steps) / seconds

        def from_images() -> float:
            steps = plan(image_steps, min(_BATCH, len(files)))
            start = time.perf_counter()
            for batch in _image_batches(steps, files, backbone, feed, device):
                joined_step(batch)
            _finish(device)
            return sum(len(step.pairs) for step in steps) / (time.perf_counter() - start)

        measured = interleaved({"cache": from_cache, "images": from_images}, rounds)
    ratio = measured.ratio("cache", "images")
    return {
        **ratio.figures("vs_images"),
        "data_wait_share": sum(waits) / sum(times),
        "cache_pairs_per_second": ratio.a,
        "images_pairs_per_second": ratio.b,
        "captioner_parameters": float(sum(p.numel() for p in model.parameters())),
    }


def _trainer(device: torch.device) -> tuple[PairCaptioner, Callable[[Batch], None]]:
    """Return the default captioner and what one step of its training does."""
    model = build_model(CaptionerSettings(), _VOCABULARY, _SHAPE, seed=0, bf16=device.type == "cuda").to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step(batch: Batch) -> None:
        loss = model(batch.inputs, batch.tokens, batch.owners)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return model, step


def _image_batches(
    steps: Sequence[Step], files: Sequence[tuple[Path, Path]], backbone: SceneBackbone, feed: Feed, device: torch.device
) -> Iterator[Batch]:
    settings = BackboneSettings(backbone="resnet101")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as readers:

        def start(step: Step) -> list[Iterator[np.ndarray]]:
            return [readers.map(read_rgb, files[int(pair) % len(files)]) for pair in step.pairs]

        reading = [start(step) for step in steps[:2]]
        for index, step in enumerate(steps):
            images = np.stack([np.stack(list(pair)) for pair in reading.pop(0)])
            if index + 2 < len(steps):
                reading.append(start(steps[index + 2]))
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                inputs = torch.from_numpy(images).to(device).flatten(0, 1).permute(0, 3, 1, 2)
                features: Tensor = backbone(normalise(inputs, settings).contiguous(memory_format=torch.channels_last))
            yield feed.assemble(step, features.view(len(step.pairs), 2, *_SHAPE))


def _backbone(device: torch.device) -> SceneBackbone:
    # The channels-last layout is the faster one on CPUs and on GPUs: the image side gets the best form of its work.
    return build_backbone("resnet101", None).to(device).to(memory_format=torch.channels_last)


def _captions(pairs: int) -> CaptionTable:
    random = np.random.default_rng(0)
    lengths = random.integers(*_WORDS, endpoint=True, size=_CAPTIONS * pairs)
    tokens = random.integers(4, _VOCABULARY, size=(len(lengths), _WORDS[1]), dtype=np.int32)
    tokens[np.arange(_WORDS[1]) >= lengths[:, None]] = 0
    return CaptionTable(tokens, lengths.astype(np.int64), np.arange(0, len(lengths) + 1, _CAPTIONS, dtype=np.int64))


def _features(folder: Path, pairs: int) -> PairSource:
    path = folder / "features.npy"
    random = np.random.default_rng(1)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(pairs, 2, *_SHAPE))
    for row in array:
        row[:] = random.standard_normal(row.shape, dtype=np.float32).clip(0)
    array.flush()
    rows = np.arange(pairs, dtype=np.int64)
    return PairSource(np.load(path, mmap_mode="r"), rows, [str(row) for row in rows], "features")


def _write_images(folder: Path, pairs: int) -> list[tuple[Path, Path]]:
    """Write pairs of PNG files that compress as aerial images do: smooth ground with some noise."""
    from PIL import Image

    random = np.random.default_rng(2)
    files = []
    for pair in range(pairs):
        names = (folder / f"{pair}-before.png", folder / f"{pair}-after.png")
        for name in names:
            coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            ground = np.asarray(coarse.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), dtype=np.int16)
            pixels = (ground + random.integers(-12, 13, ground.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(name)
        files.append(names)
    return files


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
