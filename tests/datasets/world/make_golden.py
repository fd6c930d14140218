"""Regenerates golden.json: `python -m tests.datasets.world.make_golden`, from the project's folder.

It pins captions and label maps, not photographs: those depend on the last bits of floating-point kernels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.datasets.world.pair import WorldPair, make_pair
from pipeline.datasets.world.settings import WorldSettings
from pipeline.files import sha256_bytes

PATH = Path(__file__).with_name("golden.json")
SETTINGS = WorldSettings(train=12, seed=5)
INDICES = (0, 1, 2, 3)


def digest(pair: WorldPair) -> dict[str, Any]:
    """Return what is pinned of a pair."""
    return {
        "captions": [caption.text for caption in pair.captions],
        "semantic": [sha256_bytes(array.tobytes()) for array in pair.semantic],
        "instances": [sha256_bytes(array.astype("<u2").tobytes()) for array in pair.instances],
    }


def golden() -> dict[str, Any]:
    """Return the digests of a few pairs, by id."""
    pairs = [make_pair(SETTINGS, "train", index) for index in INDICES]
    return {pair.id: digest(pair) for pair in pairs}


if __name__ == "__main__":
    PATH.write_text(json.dumps(golden(), indent=1) + "\n", encoding="utf-8")
