"""A small prepared data set of random pictures, and a random backbone, for tests of the scenes stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from pipeline.datasets.records import Pair, write_prepared
from pipeline.files import sha256_file
from pipeline.vision.scenes.backbones import build_backbone
from stages.settings import ScenesSettings


def write_pair(root: Path, name: str, size: int, rng: np.random.Generator) -> Pair:
    """Write two random pictures and return their record."""
    paths = {"before": f"A/{name}.png", "after": f"B/{name}.png"}
    for path in paths.values():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(root / path, compress_level=1)
    hashes = {date: sha256_file(root / path) for date, path in paths.items()}
    return Pair(id=name, split="train", captions=("a road is built",), changed=True, sha256=hashes, **paths)


def make_data(folder: Path, pairs: int, *, size: int = 32, batch_size: int = 4) -> tuple[Path, ScenesSettings]:
    """Write `folder`/images, /prepared and /weights.safetensors; return the prepared folder and settings for it."""
    rng = np.random.default_rng(0)
    records = [write_pair(folder / "images", f"pair_{index:03d}", size, rng) for index in range(pairs)]
    write_prepared(folder / "prepared", "folder", str(folder / "images"), records)
    weights = folder / "weights.safetensors"
    save_file(build_backbone("mini", None, seed=5).state_dict(), weights)
    return folder / "prepared", ScenesSettings(weights=str(weights), batch_size=batch_size)
