"""What the rows of an experiment came to, and all of it as one JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.evaluation.bootstrap import Comparison
from pipeline.evaluation.rows import DEVIATION, MODEL
from pipeline.evaluation.scores import METRICS
from pipeline.evaluation.seeds import Numbers
from pipeline.evaluation.subsets import SUBSETS, Subset

FLAG = "change_flag"
"""Where a row's accuracy, precision, recall and F1 of the change flag stand, beside the subsets."""


@dataclass(frozen=True)
class RowResult:
    """A row of the table.

    Attributes:
        label: How it is called.
        changes: `section.key=value` by which it differs from the experiment's other rows.
        folder: Name of its run's folder beside the table; None where it has none.
        reason: Why it has no scores; None where it has.
        failed: Whether the reason is a failure, and not that it was not to be run.
        metrics: metrics.json of the stage `evaluate`; None without scores.
        seconds: Training time by seed.
        above: Comparison with the row above on changed pairs, by metric; None where one of the two has no scores, or
            there are no changed pairs.
        first: The same with the first row that has scores.
    """

    label: str
    changes: tuple[str, ...]
    folder: str | None = None
    reason: str | None = None
    failed: bool = False
    metrics: Mapping[str, Any] | None = None
    seconds: Mapping[int, float] = field(default_factory=dict)
    above: Mapping[str, Comparison] | None = None
    first: Mapping[str, Comparison] | None = None

    def numbers(self, part: Subset | str) -> tuple[Numbers | None, Numbers | None]:
        """Return mean and sample deviation over seeds, by metric, of a subset or of `FLAG`.

        The mean is None where there is nothing to score, the deviation also where there is one seed.
        """
        if self.metrics is None:
            return None, None
        rows = (self.metrics[FLAG] if part == FLAG else self.metrics["words"][part]) or {}
        return rows.get(MODEL), rows.get(DEVIATION)

    def by_seed(self, subset: Subset) -> dict[str, Numbers]:
        """Return the scores of each seed on a subset; empty where there are none."""
        mean, _ = self.numbers(subset)
        if self.metrics is None or mean is None:
            return {}
        seeds = self.metrics["seeds"] or {str(seed): {"words": {subset: mean}} for seed in self._only_seed()}
        return {seed: scores["words"][subset] for seed, scores in seeds.items()}

    @property
    def training_seconds(self) -> float | None:
        """Mean training time of a seed; None where it is not known of every seed."""
        return sum(self.seconds.values()) / len(self.seconds) if self.seconds else None

    def _only_seed(self) -> list[int]:
        return [] if self.metrics is None else self.metrics["about"][0]["seeds"]


@dataclass(frozen=True)
class Results:
    """An experiment and what became of it.

    Attributes:
        name: Of the experiment.
        title: Its heading.
        seeds: Of every row.
        resamples: Of the bootstrap.
        bootstrap_seed: Of its drawing.
        rows: From top to bottom.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    resamples: int
    bootstrap_seed: int
    rows: Sequence[RowResult]

    @property
    def pairs(self) -> Mapping[Subset, int]:
        """Scored pairs by subset; empty where no row has scores."""
        return next((row.metrics["pairs"] for row in self.rows if row.metrics is not None), {})

    @property
    def split(self) -> str | None:
        """The split that was captioned; None where no row has scores."""
        return next((row.metrics["about"][0]["split"] for row in self.rows if row.metrics is not None), None)

    def document(self) -> dict[str, Any]:
        """Return everything but times as JSON: the same runs give the same bytes."""
        return {
            "experiment": self.name,
            "title": self.title,
            "seeds": list(self.seeds),
            "split": self.split,
            "pairs": dict(self.pairs),
            "bootstrap": {"pairs": "changed", "resamples": self.resamples, "seed": self.bootstrap_seed},
            "rows": [_row(row) for row in self.rows],
        }

    def times(self) -> dict[str, dict[str, float]]:
        """Return the seconds of training by row and seed."""
        return {row.label: {str(seed): round(time, 2) for seed, time in row.seconds.items()} for row in self.rows}


def _row(row: RowResult) -> dict[str, Any]:
    about: dict[str, Any] = {"label": row.label, "set": list(row.changes), "folder": row.folder}
    if row.metrics is None:
        return about | {"failed": row.failed, "reason": row.reason}
    return about | {
        "scores": {subset: _spread(row, subset) for subset in SUBSETS},
        FLAG: _spread(row, FLAG),
        "by_seed": {subset: row.by_seed(subset) for subset in SUBSETS},
        "against_row_above": _compared(row.above),
        "against_first_row": _compared(row.first),
    }


def _compared(found: Mapping[str, Comparison] | None) -> dict[str, Any] | None:
    return None if found is None else {metric: one.as_dict() for metric, one in found.items()}


def _spread(row: RowResult, part: Subset | str) -> dict[str, Any] | None:
    mean, deviation = row.numbers(part)
    if mean is None:
        return None
    names = mean if part == FLAG else METRICS
    return {name: {"mean": mean[name], "deviation": deviation and deviation[name]} for name in names}
