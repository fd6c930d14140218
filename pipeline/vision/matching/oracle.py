"""Matches against what is true of the synthetic world: what survived, what has gone, what is new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.reader import Cache
from pipeline.datasets.records import Split
from pipeline.datasets.world.pair import read_objects, read_picture
from pipeline.vision.matching.cache import read_matches
from pipeline.vision.matching.matcher import Assignment
from pipeline.vision.matching.settings import AssignmentSettings
from pipeline.vision.sam.cache import read_masks

_LEAST_IOU = 0.5


@dataclass(frozen=True)
class Gold:
    """What is true of the regions of one pair.

    Attributes:
        before: (N1) int64, of each region before the object that it shows, 0 for none.
        after: (N2) int64, likewise.
        corresponding: Objects that both dates show.
        disappeared: Objects that only the earlier date shows.
        appeared: Objects that only the later date shows.
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    corresponding: frozenset[int]
    disappeared: frozenset[int]
    appeared: frozenset[int]

    @property
    def surviving(self) -> frozenset[int]:
        """Objects that both dates show, and of which each has a region: what a matcher can match."""
        return self.corresponding & set(self.before.tolist()) & set(self.after.tolist())


@dataclass(frozen=True)
class Count:
    """How often something was right, how often it was said, and how often it is true."""

    right: int = 0
    said: int = 0
    true: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    @property
    def precision(self) -> float:
        """Share of what was said that is right; 1 where nothing was said."""
        return self.right / self.said if self.said else 1.0

    @property
    def recall(self) -> float:
        """Share of what is true that was said; 1 where nothing is true."""
        return self.right / self.true if self.true else 1.0


@dataclass(frozen=True)
class Score:
    """How a matcher did.

    Attributes:
        matches: Matches of surviving regions.
        disappeared: U1 against regions of objects that have gone.
        appeared: U2 against regions of objects that are new.
    """

    matches: Count = Count()
    disappeared: Count = Count()
    appeared: Count = Count()

    def __add__(self, other: Score) -> Score:
        return Score(self.matches + other.matches, self.disappeared + other.disappeared, self.appeared + other.appeared)


def objects_of_regions(masks: NDArray[np.bool_], instances: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return (N) the object that each mask shows: the one with IoU ≥ 0.5, 0 for none. Several may show one object.

    Args:
        masks: (N, H, W).
        instances: (H, W) instance numbers, 0 for none.
    """
    found = np.zeros(len(masks), dtype=np.int64)
    areas = np.bincount(instances.ravel())
    for row, mask in enumerate(masks):
        covered = np.bincount(instances[mask], minlength=len(areas))
        iou = covered / np.maximum(areas + mask.sum() - covered, 1)
        iou[0] = 0.0
        best = int(iou.argmax())
        found[row] = best if iou[best] >= _LEAST_IOU else 0
    return found


def judge(gold: Gold, found: Assignment) -> Score:
    """Compare one pair's assignment with the truth.

    Where several masks show one object, any of one date may be matched with any of the other, and those that are left
    over for want of a partner are rightly unmatched. Regions that show no object are not judged, nor is an object that
    survives but has a region at one date only: whether its region is matched, and with what, is decided by the masks.
    """
    surviving = gold.surviving
    judged_before, judged_after = surviving | gold.disappeared, surviving | gold.appeared
    right = said = 0
    for row, column in found.matched.tolist():
        one, other = int(gold.before[row]), int(gold.after[column])
        if one in judged_before or other in judged_after:
            said += 1
            right += one == other
    before, after = Counter(gold.before.tolist()), Counter(gold.after.tolist())
    return Score(
        matches=Count(right, said, sum(min(before[number], after[number]) for number in surviving)),
        disappeared=_lonely(gold.before[found.unmatched_before], gold.disappeared, surviving, before, after),
        appeared=_lonely(gold.after[found.unmatched_after], gold.appeared, surviving, after, before),
    )


def _lonely(
    unmatched: NDArray[np.int64],
    gone: Collection[int],
    surviving: Collection[int],
    here: Mapping[int, int],
    there: Mapping[int, int],
) -> Count:
    """Count what is said about regions of one date that are called unmatched, given the objects that they show.

    `here` and `there` say how many regions an object has at this date and at the other one.
    """
    named = Counter(unmatched.tolist())
    right = sum(named[number] for number in gone)
    wrong = sum(max(0, named[number] - max(0, here[number] - there[number])) for number in surviving)
    return Count(right, right + wrong, sum(here[number] for number in gone))


def read_gold(world: Path, split: Split, masks: Cache) -> dict[str, Gold]:
    """Read what is true of the regions of a generated world, by pair.

    Args:
        world: Folder that `generate_world` wrote.
        split: Which of its splits.
        masks: masks.h5 of it.
    """
    gold = {}
    for name, record in read_objects(world, split).items():
        objects = []
        for date, folder in enumerate("AB"):
            instances = read_picture(world, "instances", split, folder, f"{name}.png")
            bitmaps = read_masks(masks, masks.unit(name, date)).bitmaps()
            objects.append(objects_of_regions(bitmaps, instances))
        gold[name] = gold_of(record, *objects)
    return gold


def gold_of(record: Mapping[str, Any], before: NDArray[np.int64], after: NDArray[np.int64]) -> Gold:
    """Combine a pair's record in objects/<split>.jsonl with the objects that its regions show."""
    sets = (frozenset(record[name]) for name in ("correspondences", "disappeared", "appeared"))
    return Gold(before, after, *sets)


def score_matches(gold: Mapping[str, Gold], matches: Cache, settings: AssignmentSettings | None = None) -> Score:
    """Score the pairs of `gold` by matches.h5; `settings` as in `read_matches`."""
    found = (judge(pair, read_matches(matches, matches.unit(name), settings)) for name, pair in gold.items())
    return sum(found, Score())


def best_threshold(
    gold: Mapping[str, Gold], matches: Cache, settings: AssignmentSettings, candidates: Iterable[float]
) -> float:
    """Return the τ with the best mean of all six precisions and recalls; the fair one to compare a matcher with."""

    def mean(threshold: float) -> float:
        score = score_matches(gold, matches, settings.model_copy(update={"threshold": threshold}))
        return float(np.mean([(part.precision, part.recall) for part in vars(score).values()]))

    return max(candidates, key=mean)


def table(scores: Mapping[str, Score]) -> str:
    """Return a Markdown table, a row per matcher."""
    lines = [
        "| matcher | matches: precision | recall | U1: precision | recall | U2: precision | recall |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, score in scores.items():
        cells = [f"{value:.3f}" for part in vars(score).values() for value in (part.precision, part.recall)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    first = next(iter(scores.values()), Score())
    truth = ", ".join(f"{part.true:,} {name}" for name, part in vars(first).items())
    return "\n".join([*lines, "", f"true in the split: {truth}"])
