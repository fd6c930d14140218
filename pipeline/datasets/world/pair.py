"""One pair of the world, complete: pictures, label maps, objects, events, captions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.records import SPLITS, Split
from pipeline.datasets.world.canvas import Canvas, Mask
from pipeline.datasets.world.captions import Caption, compose
from pipeline.datasets.world.facts import Event, LabelMaps, visible_events
from pipeline.datasets.world.ground import draw_materials
from pipeline.datasets.world.labels import DrawnDate, draw_dates
from pipeline.datasets.world.light import draw_acquisitions, expose
from pipeline.datasets.world.objects import ObjectRecord, list_objects
from pipeline.datasets.world.paint import radiance
from pipeline.datasets.world.plan import draw_kind, plan_scene
from pipeline.datasets.world.scene import Scene, freeze
from pipeline.datasets.world.settings import WorldSettings

_ATTEMPTS = 200


@dataclass(frozen=True)
class WorldPair:
    """A pair with everything that is known about it. Arrays are indexed [row, column].

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
        events: What changes; empty for an unchanged pair.
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
    """Say whether a pair shows a change: a fixed share of every split, spread over it in a seeded order."""
    total = int(getattr(settings, split))
    unchanged = round(total * settings.unchanged_share)
    order = np.random.default_rng([settings.seed, SPLITS.index(split), 1]).permutation(total)
    return bool(order[index] >= unchanged)


def make_pair(settings: WorldSettings, split: Split, index: int) -> WorldPair:
    """Make one pair; it depends on the settings, the split and the index, on nothing else.

    Raises:
        IndexError: The split has no such pair.
        RuntimeError: No scene with a visible change was found; the settings' extent is too small for its contents.
    """
    if not 0 <= index < getattr(settings, split):
        raise IndexError(f"{split} has no pair {index}")
    root = np.random.SeedSequence([settings.seed, SPLITS.index(split), 0, index])
    plan_seed, look_seed, words_seed = root.spawn(3)
    canvas = Canvas(settings.size, settings.ground_sample_distance)
    changed = is_changed(settings, split, index)
    scene, drawn, maps, events = _visible_scene(settings, np.random.default_rng(plan_seed), canvas, changed)
    look = np.random.default_rng(look_seed)
    materials = draw_materials(look, canvas)
    images = []
    for date, acquisition in enumerate(draw_acquisitions(look, settings.nuisances)):
        light = radiance(drawn[date], scene.base, materials, acquisition, canvas, settings.nuisances.cars, look)
        images.append(expose(light, acquisition, canvas, look))
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
        captions=compose(np.random.default_rng(words_seed), events),
    )


def _visible_scene(
    settings: WorldSettings, generator: np.random.Generator, canvas: Canvas, changed: bool
) -> tuple[Scene, tuple[DrawnDate, DrawnDate], LabelMaps, list[Event]]:
    """Plan scenes until the planned change can be seen.

    Unchanged pairs are one date of the same kind of scene, so that neither class has scenes of its own.
    """
    # Drawn once: events that are hard to fit must not become rare.
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
