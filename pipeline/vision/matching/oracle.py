"""Evaluation of matches against the synthetic world: objects that survived, disappeared and appeared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.reader import Cache
from pipeline.datasets.records import Split
from pipeline.datasets.world.pair import read_objects, read_picture
from pipeline.vision.matching.cache import read_matches
from pipeline.vision.matching.matcher import Assignment
from pipeline.vision.matching.settings import AssignmentSettings
from pipeline.vision.sam.cache import read_masks

_MIN_IOU = 0.5


@dataclass(frozen=True)
class GroundTruth:
    """Objects that the regions of one pair show.

    Attributes:
        before: (N1) int64, the object of each region before, 0 for none.
        after: (N2) int64, the object of each region after, 0 for none.
        corresponding: Objects at both dates.
        disappeared: Objects at the earlier date only.
        appeared: Objects at the later date only.
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    corresponding: frozenset[int]
    disappeared: frozenset[int]
    appeared: frozenset[int]

    @property
    def surviving(self) -> frozenset[int]:
        """Objects that have a region at both dates, which a matcher can match."""
        return self.corresponding & set(self.before.tolist()) & set(self.after.tolist())


@dataclass(frozen=True)
class Counts:
    """Numbers of true positives, of predicted positives and of actual positives."""

    tp: int = 0
    predicted: int = 0
    actual: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.predicted + other.predicted, self.actual + other.actual)

    @property
    def precision(self) -> float:
        """Share of the predicted positives that are true; 1 if there are none."""
        return self.tp / self.predicted if self.predicted else 1.0

    @property
    def recall(self) -> float:
        """Share of the actual positives that are predicted; 1 if there are none."""
        return self.tp / self.actual if self.actual else 1.0


@dataclass(frozen=True)
class Score:
    """Counts of a matcher's decisions.

    Attributes:
        matches: Matches of surviving objects.
        disappeared: U1 against the regions of objects that disappeared.
        appeared: U2 against the regions of objects that appeared.
    """

    matches: Counts = Counts()
    disappeared: Counts = Counts()
    appeared: Counts = Counts()

    def __add__(self, other: Score) -> Score:
        return Score(self.matches + other.matches, self.disappeared + other.disappeared, self.appeared + other.appeared)


def objects_of_regions(masks: NDArray[np.bool_], instances: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the object (N) that each mask shows by an IoU of at least 0.5, 0 for none; several may show one object.

    Args:
        masks: (N, H, W).
        instances: (H, W) instance numbers, 0 for none.
    """
    objects = np.zeros(len(masks), dtype=np.int64)
    areas = np.bincount(instances.ravel())
    for row, mask in enumerate(masks):
        intersection = np.bincount(instances[mask], minlength=len(areas))
        iou = intersection / np.maximum(areas + mask.sum() - intersection, 1)
        iou[0] = 0.0
        best = int(iou.argmax())
        objects[row] = best if iou[best] >= _MIN_IOU else 0
    return objects


def score_pair(truth: GroundTruth, assignment: Assignment) -> Score:
    """Compare one pair's assignment with the ground truth.

    Where several masks show one object, any of one date may be matched with any of the other, and surplus masks of the
    date that has more are rightly unmatched. Not counted are regions that show no object, and objects that survive but
    have a region at one date only: their masks decide whether and with what such a region is matched.
    """
    surviving = truth.surviving
    counted_before, counted_after = surviving | truth.disappeared, surviving | truth.appeared
    tp = predicted = 0
    for row, column in assignment.matched.tolist():
        object_before, object_after = int(truth.before[row]), int(truth.after[column])
        if object_before in counted_before or object_after in counted_after:
            predicted += 1
            tp += object_before == object_after
    before, after = Counter(truth.before.tolist()), Counter(truth.after.tolist())
    return Score(
        matches=Counts(tp, predicted, sum(min(before[number], after[number]) for number in surviving)),
        disappeared=_unmatched_counts(
            truth.before[assignment.unmatched_before], truth.disappeared, surviving, before, after
        ),
        appeared=_unmatched_counts(truth.after[assignment.unmatched_after], truth.appeared, surviving, after, before),
    )


def _unmatched_counts(
    unmatched: NDArray[np.int64],
    changed: Collection[int],
    surviving: Collection[int],
    own_regions: Mapping[int, int],
    other_regions: Mapping[int, int],
) -> Counts:
    """Count the unmatched regions of one date.

    Args:
        unmatched: The object of each unmatched region.
        changed: Objects that this date shows and the other does not.
        surviving: Objects with regions at both dates.
        own_regions: Number of regions of each object at this date.
        other_regions: Number of regions of each object at the other date.
    """
    numbers = Counter(unmatched.tolist())
    tp = sum(numbers[number] for number in changed)
    # Surplus masks of an object have no partner.
    fp = sum(max(0, numbers[number] - max(0, own_regions[number] - other_regions[number])) for number in surviving)
    return Counts(tp, tp + fp, sum(own_regions[number] for number in changed))


def read_ground_truth(world: Path, split: Split, masks: Cache) -> dict[str, GroundTruth]:
    """Read the ground truth of the regions of a generated world, by pair.

    Args:
        world: Folder that `generate_world` wrote.
        split: Which of its splits.
        masks: masks.h5 of it.
    """
    truth = {}
    for name, record in read_objects(world, split).items():
        objects = []
        for date, folder in enumerate("AB"):
            instances = read_picture(world, "instances", split, folder, f"{name}.png")
            bitmaps = read_masks(masks, masks.unit(name, date)).bitmaps()
            objects.append(objects_of_regions(bitmaps, instances))
        before, after = objects
        corresponding, disappeared, appeared = (
            frozenset(record[key]) for key in ("correspondences", "disappeared", "appeared")
        )
        truth[name] = GroundTruth(before, after, corresponding, disappeared, appeared)
    return truth


def score_matches(
    truth: Mapping[str, GroundTruth], matches: Cache, settings: AssignmentSettings | None = None
) -> Score:
    """Score matches.h5 on the pairs of `truth`; `settings` as in `read_matches`."""
    scores = (score_pair(pair, read_matches(matches, matches.unit(name), settings)) for name, pair in truth.items())
    return sum(scores, Score())


def best_threshold(
    truth: Mapping[str, GroundTruth], matches: Cache, settings: AssignmentSettings, candidates: Iterable[float]
) -> float:
    """Return the τ with the best mean of all six precisions and recalls, for a fair comparison of matchers."""

    def mean(threshold: float) -> float:
        score = score_matches(truth, matches, settings.model_copy(update={"threshold": threshold}))
        return float(np.mean([(counts.precision, counts.recall) for counts in vars(score).values()]))

    return max(candidates, key=mean)


def table(scores: Mapping[str, Score]) -> str:
    """Return a Markdown table with one row per matcher."""
    lines = [
        "| matcher | matches: precision | recall | U1: precision | recall | U2: precision | recall |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, score in scores.items():
        cells = [f"{value:.3f}" for counts in vars(score).values() for value in (counts.precision, counts.recall)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    first = next(iter(scores.values()), Score())
    actual = ", ".join(f"{counts.actual:,} {name}" for name, counts in vars(first).items())
    return "\n".join([*lines, "", f"true in the split: {actual}"])
