"""Reading the data of a drawing from the caches."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Expectation
from pipeline.datasets.images import read_rgb
from pipeline.datasets.records import Pair, read_prepared
from pipeline.errors import CacheError, DataError
from pipeline.progress import say
from pipeline.vision.drawing.pair import DrawnMatches, DrawnPair, DrawnRegions, DrawnSemantics
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.grounding.cache import read_semantics
from pipeline.vision.grounding.settings import parse_prompts
from pipeline.vision.matching.cache import SCHEMA as MATCHES
from pipeline.vision.matching.cache import read_matches
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.vision.sam.cache import read_masks


def gather_pair(
    prepared: Path, identity: str, *, masks: Path, matches: Path | None = None, semantics: Path | None = None
) -> DrawnPair:
    """Read one pair from the caches.

    Args:
        prepared: Folder that `sagecc prepare` wrote.
        identity: The pair's id.
        masks: Cache that `sagecc masks` wrote.
        matches: Cache that `sagecc matches` wrote; None: no correspondences.
        semantics: Cache that `sagecc semantics` wrote; None: no semantic regions.

    Raises:
        CacheError: A cache is missing or damaged, is of other pairs, or the matches belong to other masks.
        DataError: There is no such pair, or an image cannot be read or was missing when the data were prepared.
    """
    data = read_prepared(prepared)
    data.require_images()
    if identity not in data.index:
        near = difflib.get_close_matches(identity, data.index, n=3, cutoff=0.0)
        raise DataError(
            f"there is no pair {identity!r}", where=prepared / "pairs.jsonl", fix=f"for example {', '.join(near)}"
        )
    pair = data.pairs[data.index[identity]]
    expect = Expectation(upstream={"pairs.jsonl": data.card.pairs_sha256})
    images = [read_rgb(data.root / name, convert=True) for name in (pair.before, pair.after)]
    regions = _regions(masks, identity, images, expect)
    pair_matches = None if matches is None else _matches(matches, identity, regions)
    both_semantics: tuple[DrawnSemantics, DrawnSemantics] | None = None
    names: tuple[str, ...] = ()
    if semantics is not None:
        both_semantics, names = _semantics(semantics, identity, images, expect)
    return DrawnPair(_caption(pair), regions, pair_matches, both_semantics, names)


def _caption(pair: Pair) -> str:
    return f"{pair.id}: {pair.captions[0]}" if pair.captions else pair.id


def _regions(
    path: Path, identity: str, images: list[NDArray[np.uint8]], expect: Expectation
) -> tuple[DrawnRegions, DrawnRegions]:
    with Cache.open(path, MASKS, expect=expect) as cache:
        _tell_skipped(cache, identity)
        sets = [read_masks(cache, cache.unit(identity, date)) for date in (0, 1)]
    before, after = (
        # An image that was skipped has no masks, and no size either.
        DrawnRegions(image, masks.bitmaps() if len(masks) else _no_masks(image), masks.centroids)
        for image, masks in zip(images, sets, strict=True)
    )
    return before, after


def _matches(path: Path, identity: str, regions: tuple[DrawnRegions, DrawnRegions]) -> DrawnMatches:
    with Cache.open(path, MATCHES) as cache:
        unit = cache.unit(identity)
        counts = cache.row("counts", unit).tolist()
        _tell_skipped(cache, identity)
        skipped = unit in cache.missing
        assignment = read_matches(cache, unit)
    if not skipped and counts != [len(each.masks) for each in regions]:
        raise CacheError(
            "the matches are of other masks than these", where=path, fix="run `sagecc regions` and `sagecc matches`"
        )
    return DrawnMatches(assignment.matched, assignment.unmatched_before, assignment.unmatched_after)


def _semantics(
    path: Path, identity: str, images: list[NDArray[np.uint8]], expect: Expectation
) -> tuple[tuple[DrawnSemantics, DrawnSemantics] | None, tuple[str, ...]]:
    """Return both dates' semantic regions and the categories' names; None for imported ones, which have no masks."""
    with Cache.open(path, SEMANTICS, expect=expect) as cache:
        if "grounding" not in cache.provenance.settings:
            return None, ()
        _tell_skipped(cache, identity)
        sets = [read_semantics(cache, cache.unit(identity, date)) for date in (0, 1)]
        prompts = cache.provenance.settings["grounding"]["prompts"]
    before, after = (
        DrawnSemantics(
            masks=regions.masks if len(regions) else _no_masks(image),
            boxes=regions.boxes,
            categories=regions.category,
            scores=regions.scores,
            map=_at_size(regions.map, image.shape[:2]),
        )
        for image, regions in zip(images, sets, strict=True)
    )
    return (before, after), tuple(category.name for category in parse_prompts(prompts))


def _tell_skipped(cache: Cache, identity: str) -> None:
    """Say where a stage skipped an image of the pair: an empty picture would look like an answer."""
    first = cache.unit(identity)
    if np.isin(np.arange(first, first + cache.schema.units_per_item), cache.missing).any():
        stage = cache.schema.stage
        say(f"draw: the {stage} of pair {identity!r} were skipped; {cache.path.stem}.failures.json says why")


def _no_masks(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.zeros((0, *image.shape[:2]), dtype=np.bool_)


def _at_size(labels: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Resize a semantic map to the size (height, width) of its image; that of a skipped image is empty."""
    if labels.shape == size:
        return labels
    if labels.size == 0:
        return np.zeros(size, dtype=np.uint8)
    return np.asarray(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))
