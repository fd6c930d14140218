"""A small prepared data set with masks.h5 over it, for tests of the stages that build on masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from pipeline.cache.schema import Provenance, Schema
from pipeline.cache.writer import UnitSource, pack
from pipeline.datasets.images import read_rgb
from pipeline.datasets.records import Pair, Prepared, read_prepared, write_prepared
from pipeline.files import content_key, sha256_file
from pipeline.vision.masks import encode_rle
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.vision.sam.cache import MaskSet
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.model import build_sam
from pipeline.vision.sam.settings import SamSettings
from stages.settings import RegionsSettings

Bitmaps = NDArray[np.bool_]
SQUARE = ((64, 64),) * 3
"""Height and width of three pairs."""


def write_image(path: Path, height: int, width: int, rng: np.random.Generator) -> str:
    """Write a random picture of large blocks; return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    Image.fromarray(pixels).save(path, compress_level=1)
    return sha256_file(path)


def write_pairs(folder: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    """Write a pair of random pictures per (height, width) to `folder`/images, and `folder`/prepared, its records."""
    rng = np.random.default_rng(0)
    records = []
    for number, (height, width) in enumerate(sizes):
        name = f"pair_{number:03d}"
        paths = {"before": f"A/{name}.png", "after": f"B/{name}.png"}
        hashes = {date: write_image(folder / "images" / path, height, width, rng) for date, path in paths.items()}
        records.append(Pair(id=name, split="train", sha256=hashes, **paths))
    write_prepared(folder / "prepared", "folder", str(folder / "images"), records)
    return folder / "prepared"


def write_sam(folder: Path, *, seed: int = 0) -> SamSettings:
    """Write random weights of the mini SAM to `folder`/sam.safetensors; return settings for them."""
    path = folder / "sam.safetensors"
    save_file(build_sam(SamSettings(), random_weights=True, seed=seed).state_dict(), path)
    return SamSettings(weights=str(path))


def random_masks(unit: int, height: int, width: int) -> Bitmaps:
    """Return `unit` modulo 5 random rectangles, so that unit 0 has none and unit 1 has one."""
    rng = np.random.default_rng(unit)
    masks = np.zeros((unit % 5, height, width), dtype=np.bool_)
    for mask in masks:
        top, left = rng.integers(0, height - 2), rng.integers(0, width - 2)
        mask[top : rng.integers(top + 1, height + 1), left : rng.integers(left + 1, width + 1)] = True
    return masks


def mask_set(bitmaps: Bitmaps) -> MaskSet:
    """Describe masks (N, H, W) as stage masks does, with falling made-up scores."""
    boxes, centroids, runs, counts = [], [], [], [np.zeros(0, np.uint32)]
    for mask in bitmaps:
        rows, columns = np.nonzero(mask)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        centroids.append([columns.mean() + 0.5, rows.mean() + 0.5])
        counts.append(encode_rle(mask))
        runs.append(len(counts[-1]))
    scores = np.linspace(0.95, 0.9, len(bitmaps), dtype=np.float32)
    return MaskSet(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        centroids=np.array(centroids, np.float32).reshape(-1, 2),
        areas=bitmaps.sum((1, 2)).astype(np.int32),
        predicted_iou=scores,
        stability=scores,
        runs=np.array(runs, np.int32),
        counts=np.concatenate(counts),
        size=(bitmaps.shape[1], bitmaps.shape[2]),
    )


class _Units:
    def __init__(self, schema: Schema, arrays: Sequence[dict[str, Any] | None]) -> None:
        self._schema = schema
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def lengths(self, unit: int) -> dict[str, int] | None:
        arrays = self._arrays[unit]
        if arrays is None:
            return None
        return {field.offsets: len(arrays[field.name]) for field in self._schema.fields if field.offsets is not None}

    def read(self, unit: int) -> dict[str, Any]:
        arrays = self._arrays[unit]
        assert arrays is not None
        return arrays


def units_of(schema: Schema, arrays: Sequence[dict[str, Any] | None]) -> UnitSource:
    """Return what `pack` reads units from; None is one that was skipped."""
    return _Units(schema, arrays)


def write_masks(
    path: Path,
    prepared: Path,
    sam: SamSettings,
    *,
    embeddings: bool = False,
    masks: Callable[[int, int, int], Bitmaps] = random_masks,
    missing: Sequence[int] = (),
    spoil: Callable[[NDArray[np.float16]], NDArray[np.float16]] = lambda embedding: embedding,
) -> Path:
    """Write masks.h5 over a prepared data set.

    Args:
        path: The cache.
        prepared: The data set.
        sam: The model that it says it was made with, and that gives the embeddings.
        embeddings: Whether it holds embeddings.
        masks: Gives the masks of a unit, its height and width.
        missing: Units that were skipped.
        spoil: Applied to every embedding before it is stored.
    """
    data = read_prepared(prepared)
    encoder = ImageEncoder(build_sam(sam), sam, "cpu") if embeddings else None
    units: list[dict[str, Any] | None] = []
    for unit, file in enumerate(images_of(data)):
        if unit in missing:
            units.append(None)
            continue
        pixels = read_rgb(file)
        embedding = np.zeros((0, 0, 0), np.float16)
        if encoder is not None:
            embedding = spoil(encoder.encode([pixels])[0].half().numpy())
        units.append({**mask_set(masks(unit, *pixels.shape[:2])).arrays(), "embedding": embedding})
    settings = {"sam": sam.model_dump(mode="json"), "precision": "fp32", "store_embeddings": embeddings}
    provenance = Provenance(
        stage="masks",
        schema_version=MASKS.version,
        settings=settings,
        settings_hash=content_key(settings),
        weights={"sam": sha256_file(Path(sam.weights))},
        upstream={"pairs.jsonl": data.card.pairs_sha256},
    )
    return pack(path, MASKS, provenance, [pair.id for pair in data.pairs], units_of(MASKS, units))


def images_of(data: Prepared) -> list[Path]:
    """Return the image files in the order of units."""
    return [data.root / name for pair in data.pairs for name in (pair.before, pair.after)]


def make(folder: Path, sizes: Sequence[tuple[int, int]] = SQUARE, **options: Any) -> tuple[Path, Path, SamSettings]:
    """Write pairs, SAM and masks (options: see `write_masks`); return the prepared folder, masks.h5, SAM's settings."""
    prepared, sam = write_pairs(folder, sizes), write_sam(folder)
    return prepared, write_masks(folder / "masks.h5", prepared, sam, **options), sam


def settings(**changes: Any) -> RegionsSettings:
    """Return settings of the regions stage with small batches."""
    return RegionsSettings(batch_size=2, **changes)
