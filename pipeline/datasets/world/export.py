"""Writes a generated world in the layouts of LEVIR-CC and SECOND-CC, so that code made for those can run on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.datasets.records import SPLITS, Split
from pipeline.datasets.world.classes import (
    BARELAND,
    BUILDING,
    GRASSLAND,
    LAND_CLASSES,
    PAVEMENT,
    PLAYGROUND,
    ROAD,
    TREE,
    WATER,
)
from pipeline.datasets.world.objects import read_objects
from pipeline.errors import DataError, OutputError
from pipeline.files import atomic_path, output_error, write_json

_REPAIR = "run `sagecc prepare`"
Layout = Literal["levir-cc", "second-cc"]

_DATES = ("A", "B")
_NO_CHANGE = (255, 255, 255)
_SECOND_COLOURS = {
    BARELAND: (128, 128, 128),
    GRASSLAND: (0, 128, 0),
    TREE: (0, 255, 0),
    WATER: (0, 0, 255),
    ROAD: (128, 128, 128),
    BUILDING: (128, 0, 0),
    PAVEMENT: (128, 128, 128),
    PLAYGROUND: (255, 0, 0),
}
"""SECOND-CC's palette: bare ground, roads and pavement are all its non-vegetated ground."""


def export_world(folder: Path, layout: Layout, output: Path) -> Path:
    """Write the world in `folder` to `output` in another data set's layout.

    levir-cc: `images/{split}/{A,B}/{id}.png` and `LevirCCcaptions.json`. second-cc: `{split}/rgb/{A,B}/{id}.png`,
    `{split}/sem/{A,B}/{id}.png` (RGB palette; white where nothing changes) and `SECOND-CC-AUG.json`. Both caption files
    have the Karpathy schema, with `raw` between a leading space and a final " ." as in LEVIR-CC's own file.

    Returns:
        The path of the caption file, which is written last.

    Raises:
        DataError: `folder` holds no world, or a file of it is missing.
        OutputError: `output` is not empty, or cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError("the export's folder is not empty", where=output, fix="choose a new folder")
    names = {"levir-cc": "LevirCCcaptions.json", "second-cc": "SECOND-CC-AUG.json"}
    images: list[dict[str, Any]] = []
    sentences = 0
    for split, record in _records(folder):
        name = f"{record['id']}.png"
        if layout == "levir-cc":
            for date in _DATES:
                _copy(folder / f"images/{split}/{date}/{name}", output / f"images/{split}/{date}/{name}")
        else:
            _export_second(folder, output, split, name)
        images.append(_caption_entry(record, split, len(images), sentences))
        sentences += len(record["captions"])
    return write_json(output / names[layout], {"images": images, "dataset": f"sagecc synthetic world as {layout}"})


def _records(folder: Path) -> Iterator[tuple[Split, dict[str, Any]]]:
    for split in SPLITS:
        for record in read_objects(folder, split).values():
            yield split, record


def _caption_entry(record: dict[str, Any], split: Split, image: int, first_sentence: int) -> dict[str, Any]:
    captions: list[str] = record["captions"]
    numbers = list(range(first_sentence, first_sentence + len(captions)))
    return {
        "filepath": split,
        "filename": f"{record['id']}.png",
        "imgid": image,
        "sentences": [
            {"tokens": text.split(), "raw": f" {text} .", "imgid": image, "sentid": number}
            for text, number in zip(captions, numbers, strict=True)
        ],
        "split": split,
        "changeflag": int(record["changed"]),
        "sentids": numbers,
    }


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise DataError("a file of the world is missing", where=source, fix=_REPAIR)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise output_error(error, target) from error


def _read_map(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except OSError as error:
        raise DataError(f"a map of the world cannot be read: {error}", where=path, fix=_REPAIR) from error


def _export_second(folder: Path, output: Path, split: Split, name: str) -> None:
    palette = np.array([_SECOND_COLOURS[value] for value in range(len(LAND_CLASSES))], dtype=np.uint8)
    unchanged = _read_map(folder / f"change/{split}/{name}") == 0
    for date in _DATES:
        _copy(folder / f"images/{split}/{date}/{name}", output / f"{split}/rgb/{date}/{name}")
        colours = palette[_read_map(folder / f"semantic/{split}/{date}/{name}")]
        colours[unchanged] = _NO_CHANGE
        with atomic_path(output / f"{split}/sem/{date}/{name}") as temporary:
            Image.fromarray(colours).save(temporary, "PNG")
