"""Contents of caches for tests, and a source that serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.cache.schema import Field, Provenance, Schema
from pipeline.cache.writer import pack

SCHEMA = Schema(
    stage="things",
    version=3,
    unit="image",
    fields=(
        Field("features", "float16", (-1, 2), None, "1", "dense features"),
        Field("vectors", "float16", (4,), "offsets", "px", "ragged vectors"),
        Field("scores", "float32", (), "offsets", "probability", "one per vector"),
        Field("codes", "uint8", (), "code_offsets", "1", "runs of a mask", "gzip"),
    ),
)
LENGTHS = ((2, 5), (0, 0), (1, 700_000), (3, 1), (0, 9), (4, 0))
IDS = ("a", "é-2", "c" * 40)


class Units:
    """Serves arrays from memory; None stands for a unit that was skipped."""

    def __init__(self, schema: Schema, arrays: Sequence[Mapping[str, npt.NDArray[Any]] | None]) -> None:
        self.arrays = arrays
        self._schema = schema

    def __len__(self) -> int:
        return len(self.arrays)

    def lengths(self, unit: int) -> Mapping[str, int] | None:
        arrays = self.arrays[unit]
        if arrays is None:
            return None
        return {field.offsets: len(arrays[field.name]) for field in self._schema.fields if field.offsets}

    def read(self, unit: int) -> Mapping[str, npt.NDArray[Any]]:
        arrays = self.arrays[unit]
        if arrays is None:
            raise AssertionError("a skipped unit was read")
        return arrays


def provenance(**changes: Any) -> Provenance:
    values: dict[str, Any] = {
        "stage": "things",
        "schema_version": 3,
        "settings": {"size": 4, "name": "é"},
        "settings_hash": "5" * 64,
        "weights": {"backbone": "6" * 64},
        "upstream": {"pairs.jsonl": "7" * 64},
        "code": "8" * 64,
    }
    return Provenance(**(values | changes))


def arrays(seed: int = 0) -> list[dict[str, npt.NDArray[Any]]]:
    random = np.random.default_rng(seed)
    return [
        {
            "features": random.standard_normal((3, 2)).astype(np.float16),
            "vectors": random.standard_normal((rows, 4)).astype(np.float16),
            "scores": random.random(rows, dtype=np.float32),
            "codes": random.integers(0, 4, codes).astype(np.uint8),
        }
        for rows, codes in LENGTHS
    ]


def write(path: Path, *, seed: int = 0, missing: Sequence[int] = (), **changes: Any) -> Path:
    contents: list[dict[str, npt.NDArray[Any]] | None] = list(arrays(seed))
    for unit in missing:
        contents[unit] = None
    return pack(path, SCHEMA, provenance(**changes), IDS, Units(SCHEMA, contents))
