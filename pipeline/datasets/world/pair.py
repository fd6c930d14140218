"""Pairs of the world: making one with its images, label maps, objects, events and captions; reading stored ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.datasets.records import PREPARE_AGAIN, SPLITS, Split
from pipeline.datasets.world.captions import Caption, compose
from pipeline.datasets.world.events import draw_kind, plan_scene
from pipeline.datasets.world.facts import Event, LabelMaps, visible_events
from pipeline.datasets.world.geometry import Canvas, Mask
from pipeline.datasets.world.labels import DrawnDate, draw_dates
from pipeline.datasets.world.light import draw_acquisitions, expose
from pipeline.datasets.world.paint import draw_materials, radiance
from pipeline.datasets.world.scene import Scene, freeze
from pipeline.datasets.world.settings import WorldSettings
from pipeline.errors import DataError


@dataclass(frozen=True)
class ObjectRecord:
    """An object at one date.

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
        """Return the record of objects/<split>.jsonl."""
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
    """Return the path of a split's objects in a world."""
    return folder / "objects" / f"{split}.jsonl"


def read_objects(folder: Path, split: Split) -> dict[str, dict[str, Any]]:
    """Read the annotations of a generated world's pairs of a split, by pair id.

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
        raise DataError(f"cannot read the world's objects: {error.strerror}", where=path, fix=PREPARE_AGAIN) from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError("not a list of a world's objects", where=path, fix=PREPARE_AGAIN) from error


def read_picture(folder: Path, *parts: str) -> NDArray[Any]:
    """Read a picture or a map of a generated world as it is stored: (H, W, 3) or (H, W).

    Args:
        folder: The world.
        parts: Path in it, such as "images", "train", "A", "train_000001.png".

    Raises:
        DataError: The file is missing or damaged.
    """
    path = folder.joinpath(*parts)
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG a SyntaxError
        raise DataError("cannot read a picture of the world", where=path, fix=PREPARE_AGAIN) from error


_ATTEMPTS = 200


@dataclass(frozen=True)
class WorldPair:
    """A pair with its complete annotations. Arrays are indexed [row, column].

    Attributes:
        id: `{split}_{index:06d}`.
        split: Its split.
        images: Pictures before and after, (size, size, 3) uint8.
        semantic: Land class before and after, (size, size) uint8; see `LAND_CLASSES`.
        instances: Instance number before and after, (size, size) uint16, 0 for open ground. One thing has one number
            at both dates.
        change: Where land class or instance differs, (size, size) bool.
        objects: Visible objects before and after.
        correspondences: Instance numbers visible at both dates.
        appeared: Instance numbers visible only after.
        disappeared: Instance numbers visible only before.
        events: Visible changes; empty for an unchanged pair.
        captions: Five sentences with their triples.
    """

    id: str
    split: Split
    images: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    semantic: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    instances: tuple[NDArray[np.uint16], NDArray[np.uint16]]
    change: Mask
    objects: tuple[tuple[ObjectRecord, ...], tuple[ObjectRecord, ...]]
    correspondences: tuple[int, ...]
    appeared: tuple[int, ...]
    disappeared: tuple[int, ...]
    events: tuple[Event, ...]
    captions: tuple[Caption, ...]

    @property
    def changed(self) -> bool:
        """Whether anything changes."""
        return bool(self.events)


def pair_id(split: Split, index: int) -> str:
    """Return the name of a pair."""
    return f"{split}_{index:06d}"


def is_changed(settings: WorldSettings, split: Split, index: int) -> bool:
    """Return whether a pair is changed: a fixed share of every split is, in a seeded order."""
    total = int(getattr(settings, split))
    unchanged = round(total * settings.unchanged_share)
    order = np.random.default_rng([settings.seed, SPLITS.index(split), 1]).permutation(total)
    return bool(order[index] >= unchanged)


def make_pair(settings: WorldSettings, split: Split, index: int) -> WorldPair:
    """Make one pair, which depends on settings, split and index alone.

    Raises:
        IndexError: The split has no such pair.
        RuntimeError: No scene with a visible change was found; the extent of the settings is too small.
    """
    if not 0 <= index < getattr(settings, split):
        raise IndexError(f"{split} has no pair {index}")
    root = np.random.SeedSequence([settings.seed, SPLITS.index(split), 0, index])
    plan_seed, appearance_seed, caption_seed = root.spawn(3)
    canvas = Canvas(settings.size, settings.ground_sample_distance)
    changed = is_changed(settings, split, index)
    scene, drawn, maps, events = _visible_scene(settings, np.random.default_rng(plan_seed), canvas, changed)
    appearance = np.random.default_rng(appearance_seed)
    materials = draw_materials(appearance, canvas)
    images = []
    for date, acquisition in enumerate(draw_acquisitions(appearance, settings.nuisances)):
        light = radiance(drawn[date], scene.base, materials, acquisition, canvas, settings.nuisances.cars, appearance)
        images.append(expose(light, acquisition, canvas, appearance))
    objects = tuple(list_objects(scene.kinds, instances, settings.size) for instances in maps.instances)
    before, after = ({item.id for item in date} for date in objects)
    return WorldPair(
        id=pair_id(split, index),
        split=split,
        images=(images[0], images[1]),
        semantic=maps.land,
        instances=maps.instances,
        change=maps.change,
        objects=(objects[0], objects[1]),
        correspondences=tuple(sorted(before & after)),
        appeared=tuple(sorted(after - before)),
        disappeared=tuple(sorted(before - after)),
        events=tuple(events),
        captions=compose(np.random.default_rng(caption_seed), events),
    )


def _visible_scene(
    settings: WorldSettings, generator: np.random.Generator, canvas: Canvas, changed: bool
) -> tuple[Scene, tuple[DrawnDate, DrawnDate], LabelMaps, list[Event]]:
    """Plan scenes until the planned change is visible.

    Unchanged pairs are one date of such a scene, so that both classes have the same kinds of scenes.
    """
    # Drawn once, so that events that seldom fit do not become rare.
    kind = draw_kind(generator)
    for _ in range(_ATTEMPTS):
        scene = plan_scene(generator, settings.extent, kind, settings.second_event_share)
        if scene is None:
            continue
        if not changed:
            scene = freeze(scene, int(generator.integers(2)))
        drawn = draw_dates(scene, canvas)
        maps = LabelMaps(
            land=(canvas.at_pixels(drawn[0].land), canvas.at_pixels(drawn[1].land)),
            instances=(canvas.at_pixels(drawn[0].instances), canvas.at_pixels(drawn[1].instances)),
        )
        events = visible_events(scene, maps)
        if events is not None:
            return scene, drawn, maps, events
    raise RuntimeError(f"no visible change of kind {kind!r} in {_ATTEMPTS} scenes of {settings.extent:g} m")
