"""Random region sets, a regions.h5 made of them, and small matchers, for tests of matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.cache.schema import Provenance
from pipeline.cache.writer import pack
from pipeline.vision.matching.settings import LightGlueSettings, MatcherSettings, SuperGlueSettings
from pipeline.vision.regions.cache import SCHEMA, RegionSet

WIDTH = 16
SUPERGLUE = SuperGlueSettings(width=16, layers=2, heads=4, keypoint_encoder=(8,), sinkhorn_iterations=20)
LIGHTGLUE = LightGlueSettings(width=16, layers=2, heads=2)
METHODS = ("superglue", "lightglue", "nearest")


def matcher_settings(method: str, **changes: Any) -> MatcherSettings:
    return MatcherSettings.model_validate({"method": method, "superglue": SUPERGLUE, "lightglue": LIGHTGLUE, **changes})


def random_regions(
    rng: np.random.Generator, count: int, *, size: tuple[int, int] = (96, 128), width: int = WIDTH
) -> RegionSet:
    height, across = size
    corners = rng.uniform(0, 0.7, (count, 2)) * (across, height)
    boxes = np.concatenate([corners, corners + rng.uniform(4, 0.3 * min(size), (count, 2))], axis=1)
    return RegionSet(
        descriptors=rng.normal(size=(count, width)).astype(np.float16),
        boxes=boxes.astype(np.float32),
        centroids=((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float32),
        areas=rng.integers(9, 400, count).astype(np.int32),
        scores=rng.uniform(0.5, 1, count).astype(np.float32),
        size=size,
    )


def random_pairs(counts: Sequence[tuple[int, int]], *, seed: int = 0) -> list[tuple[RegionSet, RegionSet]]:
    rng = np.random.default_rng(seed)
    return [(random_regions(rng, before), random_regions(rng, after)) for before, after in counts]


def shake(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every tensor of a module random values, statistics of batch normalisation included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(0.0, 0.3, generator=generator)
    return module


class Units:
    """Region sets of both dates as units of regions.h5; None for an image that was skipped."""

    def __init__(self, images: Sequence[RegionSet | None]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def lengths(self, unit: int) -> Mapping[str, int] | None:
        image = self._images[unit]
        return None if image is None else {"regions": len(image)}

    def read(self, unit: int) -> Mapping[str, npt.NDArray[Any]]:
        image = self._images[unit]
        assert image is not None
        names = ("descriptors", "boxes", "centroids", "areas", "scores")
        return {
            **{name: getattr(image, name) for name in names},
            "grids": np.zeros((len(image), 0, 7, 7), dtype=np.float16),
            "size": np.array(image.size, dtype=np.int32),
        }


def write_regions(path: Path, pairs: Sequence[tuple[RegionSet | None, RegionSet | None]]) -> Path:
    images = [image for pair in pairs for image in pair]
    provenance = Provenance("regions", SCHEMA.version, settings={}, settings_hash="0" * 64)
    return pack(path, SCHEMA, provenance, [f"pair_{index:03d}" for index in range(len(pairs))], Units(images))
