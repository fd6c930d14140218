"""Objects of a label map as records, the file that lists them for every pair, and the maps beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.datasets.records import Split
from pipeline.errors import DataError

_REPAIR = "run `sagecc prepare`"


@dataclass(frozen=True)
class ObjectRecord:
    """An object as one date shows it.

    Attributes:
        id: Instance number, the same at both dates.
        kind: Object class, one of `OBJECT_CLASSES`.
        box: Left, top, right, bottom in pixels; right and bottom exclusive.
        area: Visible pixels.
        centroid: x and y of their mean in pixels, the picture's top left corner being (0, 0).
    """

    id: int
    kind: str
    box: tuple[int, int, int, int]
    area: int
    centroid: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """Return the record as it stands in objects/<split>.jsonl."""
        return {
            "id": self.id,
            "class": self.kind,
            "bbox": list(self.box),
            "area": self.area,
            "centroid": list(self.centroid),
        }


def list_objects(kinds: dict[int, str], instances: NDArray[np.uint16], size: int) -> tuple[ObjectRecord, ...]:
    """List the objects of an instance map (size, size), by instance number."""
    rows, columns = np.divmod(np.flatnonzero(instances), size)
    numbers = instances[rows, columns]
    areas = np.bincount(numbers)
    records = []
    for number in np.flatnonzero(areas):
        member = numbers == number
        y, x = rows[member], columns[member]
        records.append(
            ObjectRecord(
                id=int(number),
                kind=kinds[int(number)],
                box=(int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1),
                area=int(areas[number]),
                centroid=(round(float(x.mean()) + 0.5, 2), round(float(y.mean()) + 0.5, 2)),
            )
        )
    return tuple(records)


def objects_path(folder: Path, split: Split) -> Path:
    """Return where a world keeps a split's objects."""
    return folder / "objects" / f"{split}.jsonl"


def read_objects(folder: Path, split: Split) -> dict[str, dict[str, Any]]:
    """Read what a generated world says about each pair of a split, by pair id.

    Each record has `before` and `after` (lists of objects with id, class, bbox, area, centroid), `correspondences`,
    `appeared`, `disappeared` (instance numbers), `events`, `captions` and, per caption, `triples`.

    Raises:
        DataError: The file is missing or damaged.
    """
    path = objects_path(folder, split)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        return {record["id"]: record for record in records}
    except OSError as error:
        raise DataError(f"cannot read the world's objects: {error.strerror}", where=path, fix=_REPAIR) from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError("not a list of a world's objects", where=path, fix=_REPAIR) from error


def read_picture(folder: Path, *parts: str) -> NDArray[Any]:
    """Read a picture or a map of a generated world as it is stored: (H, W, 3) or (H, W).

    Args:
        folder: The world.
        parts: Where in it, such as "images", "train", "A", "train_000001.png".

    Raises:
        DataError: The file is missing or damaged.
    """
    path = folder.joinpath(*parts)
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG a SyntaxError
        raise DataError("cannot read a picture of the world", where=path, fix=_REPAIR) from error
