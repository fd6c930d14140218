"""Files of a world: generating one into a folder with several processes, and exporting it in another layout."""

from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.datasets.records import PREPARE_AGAIN, SPLITS, Pair, Split
from pipeline.datasets.world.pair import WorldPair, make_pair, objects_path, read_objects, read_picture
from pipeline.datasets.world.settings import (
    BARELAND,
    BUILDING,
    GRASSLAND,
    LAND_CLASSES,
    LAND_COLOURS,
    OBJECT_CLASSES,
    PAVEMENT,
    PLAYGROUND,
    ROAD,
    TREE,
    WATER,
    WorldSettings,
)
from pipeline.errors import DataError, OutputError
from pipeline.execution.settings import EngineSettings
from pipeline.files import atomic_folder, atomic_path, sha256_bytes, write_json, write_text
from pipeline.system_errors import output_error

CLASSES_FILE = "classes.json"
_CONTENTS = ("images", "semantic", "instances", "change", "objects", CLASSES_FILE)
_PNG_COMPRESSION = 2
_CHUNK = 8


def generate_world(
    settings: WorldSettings,
    folder: Path,
    *,
    engine: EngineSettings,
    progress: Callable[[int, int], None] | None = None,
) -> list[Pair]:
    """Generate every pair of a world and write it to `folder`, all or nothing.

    Files: `images/{split}/{A,B}/{id}.png` (RGB), `semantic/{split}/{A,B}/{id}.png` (land class, 8 bit),
    `instances/{split}/{A,B}/{id}.png` (instance number, 16 bit), `change/{split}/{id}.png` (0 or 255),
    `objects/{split}.jsonl` (see `read_objects`) and `classes.json`.

    Args:
        settings: The world.
        folder: Folder to write; an older world there is replaced.
        engine: Its `workers` are the number of processes, on which the bytes do not depend.
        progress: Called with the number of pairs done and of all pairs.

    Returns:
        One record per pair with captions, change flag and hashes; paths are relative to `folder`.

    Raises:
        OutputError: The folder holds something else, or cannot be written.
    """
    if folder.exists() and not (folder / CLASSES_FILE).is_file() and any(folder.iterdir()):
        raise OutputError(
            "this folder holds something other than a synthetic world", where=folder, fix="choose another output folder"
        )
    jobs = [(split, index) for split in SPLITS for index in range(getattr(settings, split))]
    with atomic_folder(folder, replaces=_CONTENTS) as work:
        for split in SPLITS:
            for kind in ("images", "semantic", "instances"):
                for date in "AB":
                    (work / kind / split / date).mkdir(parents=True)
            (work / "change" / split).mkdir(parents=True)
        pairs: list[Pair] = []
        lines: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for pair, line in _parallel_map(
            partial(_write_pair, settings, work), jobs, engine.workers or os.cpu_count() or 1
        ):
            pairs.append(pair)
            lines[pair.split].append(line)
            if progress is not None:
                progress(len(pairs), len(jobs))
        for split in SPLITS:
            write_text(objects_path(work, split), "".join(lines[split]))
        write_json(
            work / CLASSES_FILE,
            {
                "land": [
                    {"value": value, "name": name, "colour": list(colour)}
                    for value, (name, colour) in enumerate(zip(LAND_CLASSES, LAND_COLOURS, strict=True))
                ],
                "objects": [{"name": name, "land": LAND_CLASSES[land]} for name, land in OBJECT_CLASSES.items()],
                "size": settings.size,
                "ground_sample_distance": settings.ground_sample_distance,
            },
        )
    return pairs


def _parallel_map(
    write: Callable[[tuple[Split, int]], tuple[Pair, str]], jobs: list[tuple[Split, int]], workers: int
) -> Iterator[tuple[Pair, str]]:
    workers = min(workers, -(-len(jobs) // _CHUNK))
    if workers <= 1:
        yield from map(write, jobs)
        return
    # Spawned rather than forked: the caller may hold threads of a deep-learning library.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(write, jobs, chunksize=_CHUNK)
        # KeyboardInterrupt too: otherwise all waiting jobs would be done before the pool closes.
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _write_pair(settings: WorldSettings, folder: Path, job: tuple[Split, int]) -> tuple[Pair, str]:
    pair = make_pair(settings, *job)
    split, name = pair.split, f"{pair.id}.png"
    files: dict[str, tuple[str, NDArray[Any]]] = {
        "before": (f"images/{split}/A/{name}", pair.images[0]),
        "after": (f"images/{split}/B/{name}", pair.images[1]),
        "semantic_before": (f"semantic/{split}/A/{name}", pair.semantic[0]),
        "semantic_after": (f"semantic/{split}/B/{name}", pair.semantic[1]),
        "change_mask": (f"change/{split}/{name}", pair.change.astype(np.uint8) * 255),
    }
    hashes = {field: _write_png(folder / path, array) for field, (path, array) in files.items()}
    for date, instances in zip("AB", pair.instances, strict=True):
        _write_png(folder / f"instances/{split}/{date}/{name}", instances)
    record = Pair(
        id=pair.id,
        split=split,
        captions=tuple(caption.text for caption in pair.captions),
        changed=pair.changed,
        sha256=hashes,
        **{field: path for field, (path, _) in files.items()},
    )
    return record, json.dumps(describe(pair), ensure_ascii=False) + "\n"


def _write_png(path: Path, array: NDArray[Any]) -> str:
    """Write an array as PNG with fixed settings and return the file's SHA-256."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", compress_level=_PNG_COMPRESSION)
    path.write_bytes(stream.getvalue())
    return sha256_bytes(stream.getvalue())


def describe(pair: WorldPair) -> dict[str, Any]:
    """Return the record of a pair in objects/<split>.jsonl."""
    return {
        "id": pair.id,
        "split": pair.split,
        "changed": pair.changed,
        "before": [item.as_json() for item in pair.objects[0]],
        "after": [item.as_json() for item in pair.objects[1]],
        "correspondences": list(pair.correspondences),
        "appeared": list(pair.appeared),
        "disappeared": list(pair.disappeared),
        "events": [dataclasses.asdict(event) for event in pair.events],
        "captions": [caption.text for caption in pair.captions],
        "caption_events": [list(caption.events) for caption in pair.captions],
        "triples": [[dataclasses.asdict(triple) for triple in caption.triples] for caption in pair.captions],
    }


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
        raise DataError("a file of the world is missing", where=source, fix=PREPARE_AGAIN)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise output_error(error, target) from error


def _export_second(folder: Path, output: Path, split: Split, name: str) -> None:
    palette = np.array([_SECOND_COLOURS[value] for value in range(len(LAND_CLASSES))], dtype=np.uint8)
    unchanged = read_picture(folder, f"change/{split}/{name}") == 0
    for date in _DATES:
        _copy(folder / f"images/{split}/{date}/{name}", output / f"{split}/rgb/{date}/{name}")
        colours = palette[read_picture(folder, f"semantic/{split}/{date}/{name}")]
        colours[unchanged] = _NO_CHANGE
        with atomic_path(output / f"{split}/sem/{date}/{name}") as temporary:
            Image.fromarray(colours).save(temporary, "PNG")
