"""What is imported for one date of one pair, where it lies, and how it becomes fields of semantics.h5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.paths import inner_path, refuse_outside
from pipeline.datasets.records import Pair
from pipeline.errors import DataError
from pipeline.vision.imports.settings import SourceSettings

Date = Literal["before", "after"]
DATES: tuple[Date, Date] = ("before", "after")
SETTING = "semantics.source"


@dataclass(frozen=True)
class Unit:
    """One date of one pair.

    Attributes:
        pair: The pair.
        date: Which of the two.
    """

    pair: Pair
    date: Date

    @property
    def label(self) -> str:
        """What people call it."""
        return f"{self.pair.id} {self.date}"

    @property
    def stem(self) -> str:
        """Stem of the image's file."""
        return Path(getattr(self.pair, self.date)).stem

    def fill(self, pattern: str) -> str:
        """Put the pair's split, stem and id in the places of a pattern."""
        places = {"{split}": self.pair.split, "{stem}": self.stem, "{id}": self.pair.id}
        for place, value in places.items():
            pattern = pattern.replace(place, value)
        return pattern


def units_of(pairs: Sequence[Pair]) -> Iterator[Unit]:
    """Yield both dates of every pair, in the order of the cache's units."""
    for pair in pairs:
        for date in DATES:
            yield Unit(pair, date)


def file_of(root: Path, name: str, setting: str) -> Path:
    """Return where a file lies; it need not be there.

    Args:
        root: Folder that it lies in.
        name: Its path within the folder.
        setting: Which setting names it.

    Raises:
        DataError: The name, or a link, leads out of the folder.
    """
    path = root / inner_path(name, f"{SETTING}.{setting}")
    refuse_outside(path, root)
    return path


def check_missing(missing: Sequence[Unit], settings: SourceSettings, what: str, where: Path) -> None:
    """Refuse dates of which nothing is found, unless the settings allow them.

    Raises:
        DataError: There are such; the first ones are named.
    """
    if not missing or settings.allow_missing:
        return
    named = ", ".join(unit.label for unit in missing[:3]) + (" …" if len(missing) > 3 else "")
    raise DataError(
        f"{len(missing):,} dates have no {what}: {named}",
        where=where,
        fix=f"put them there, or set {SETTING}.allow_missing: true to give these dates no regions",
    )


def checked(array: NDArray[Any], width: int | None, where: str) -> NDArray[np.float16]:
    """Return embeddings as the cache holds them.

    Args:
        array: As it was read.
        width: Width that it must have; None takes any.
        where: File, for messages.

    Returns:
        (J, width) float16.

    Raises:
        DataError: It is no table of numbers, of another width, or holds what is no finite half-precision number.
    """
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"embeddings must be an array (regions, width) of floats, not {array.shape} of {array.dtype}",
            where=where,
            fix="store one row per region",
        )
    if width is not None and array.shape[1] != width:
        raise DataError(
            f"the embeddings are {array.shape[1]} wide instead of {width}",
            where=where,
            fix=f"store all of one width, or correct {SETTING}.width",
        )
    if not np.isfinite(array).all():
        raise DataError("the embeddings hold NaN or infinity", where=where, fix="compute this file again")
    with np.errstate(over="ignore"):
        half: NDArray[np.float16] = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise DataError(
            f"the embeddings reach {np.abs(array).max():.3g}, and half precision ends at 65504",
            where=where,
            fix="scale all of them by one factor",
        )
    return half


def fields(
    embeddings: NDArray[np.float16], scores: NDArray[np.float32], category: NDArray[np.int32]
) -> dict[str, NDArray[Any]]:
    """Return the fields of semantics.h5 for one date, regions in order of falling score.

    Imported regions have a meaning but no place: boxes and sizes are zero, masks and maps are empty, and all regions
    are selected. Their similarity to a prompt is their score.

    Args:
        embeddings: (J, width).
        scores: (J,) in [0, 1].
        category: (J,) from 0.
    """
    count = len(embeddings)
    return {
        "boxes": np.zeros((count, 4), np.float32),
        "scores": scores,
        "category": category,
        "runs": np.zeros(count, np.int32),
        "counts": np.zeros(0, np.uint32),
        "embeddings": embeddings,
        "descriptors": np.zeros((count, 0), np.float16),
        "similarity": scores[:, None].astype(np.float16),
        "selected": np.ones(count, np.uint8),
        "map": np.zeros((0, 0), np.uint8),
        "map_score": np.zeros((0, 0), np.uint8),
        "size": np.zeros(2, np.int32),
    }
