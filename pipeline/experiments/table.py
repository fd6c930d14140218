"""The results of an experiment's rows as a JSON document, as a Markdown table, and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipeline.evaluation.bootstrap import COMPARED, Comparison
from pipeline.evaluation.output import TITLES
from pipeline.evaluation.report import DEVIATION, MODEL, Numbers
from pipeline.evaluation.scores import METRICS, SUBSETS, Subset
from pipeline.files import atomic_path

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

    def numbers(self, subset: Subset | str) -> tuple[Numbers | None, Numbers | None]:
        """Return mean and sample deviation over seeds, by metric, of a subset or of `FLAG`.

        The mean is None where there is nothing to score, the deviation also where there is one seed.
        """
        if self.metrics is None:
            return None, None
        rows = (self.metrics[FLAG] if subset == FLAG else self.metrics["words"][subset]) or {}
        return rows.get(MODEL), rows.get(DEVIATION)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Ids of the pairs that a stage skipped, so that the row has no captions of them."""
        return () if self.metrics is None else tuple(self.metrics["about"][0]["left_out"])

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
        """Scored pairs by subset, of the row with most of them; empty where no row has scores."""
        counts = [row.metrics["pairs"] for row in self.rows if row.metrics is not None]
        return max(counts, key=lambda pairs: pairs["all"], default={})

    @property
    def left_out(self) -> list[str]:
        """Ids of the pairs that some row could not describe: rows are compared without them."""
        return sorted({pair for row in self.rows for pair in row.left_out})

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
            "bootstrap": {
                "pairs": "changed",
                "left_out": self.left_out,
                "resamples": self.resamples,
                "seed": self.bootstrap_seed,
            },
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
        "pairs": row.metrics["pairs"],
        "left_out": list(row.left_out),
        "scores": {subset: _spread(row, subset) for subset in SUBSETS},
        FLAG: _spread(row, FLAG),
        "by_seed": {subset: row.by_seed(subset) for subset in SUBSETS},
        "against_row_above": _compared(row.above),
        "against_first_row": _compared(row.first),
    }


def _compared(comparisons: Mapping[str, Comparison] | None) -> dict[str, Any] | None:
    return None if comparisons is None else {metric: one.as_dict() for metric, one in comparisons.items()}


def _spread(row: RowResult, subset: Subset | str) -> dict[str, Any] | None:
    mean, deviation = row.numbers(subset)
    if mean is None:
        return None
    names = mean if subset == FLAG else METRICS
    return {name: {"mean": mean[name], "deviation": deviation and deviation[name]} for name in names}


Cells = Callable[[RowResult], Sequence[str]]


def markdown(results: Results) -> str:
    """Return the summary table, every score by subset, the comparisons, each seed's scores, and each row's settings."""
    scored = [row for row in results.rows if row.metrics is not None]
    sections = [f"# {results.title or results.name}", _about(results), _lines(_HEAD, results.rows, _summary)]
    sections.extend(f"**{row.label}** {row.reason}" for row in results.rows if row.failed)
    sections.extend(_left_out(results))
    for subset in SUBSETS:
        rows = [row for row in scored if row.numbers(subset)[0] is not None]
        if rows:
            sections.append(f"## Scores: {subset} pairs ({results.pairs[subset]:,})")
            sections.append(_lines(["row", *(TITLES[name] for name in METRICS)], rows, _scores(subset, METRICS)))
    flagged = [row for row in scored if row.numbers(FLAG)[0] is not None]
    if flagged:
        names = ("accuracy", "precision", "recall", "f1")
        sections.append("## “Changed”, as the sentences imply it")
        sections.append(_lines(["row", *(TITLES[name] for name in names)], flagged, _scores(FLAG, names)))
    for other, against in (("row above", _above), ("first row", _first)):
        compared = [row for row in scored if against(row) is not None]
        # Of two rows the first is the one above.
        if len(compared) > (other == "first row"):
            sections.append(f"## Against the {other}, changed pairs: difference (95 % of resamples), p")
            sections.append(_lines(["row", *(TITLES[metric] for metric in COMPARED)], compared, _comparisons(against)))
    if any(row.by_seed("changed") for row in scored):
        sections.append("## Each seed, changed pairs")
        sections.append(_lines(["row", "seed", *(TITLES[name] for name in METRICS)], scored, None))
    sections.append("## Runs")
    sections.append(_lines(_RUNS, results.rows, _run))
    return "\n\n".join(sections) + "\n"


_RUNS = ["row", "folder", "settings of its own"]
_TEXT = frozenset(_RUNS)
_HEAD = [
    "row",
    "CIDEr-D, changed",
    "BLEU-4, changed",
    "S*m, changed",
    "S*m, all",
    "flag accuracy",
    "p CIDEr-D",
    "p BLEU-4",
    "training, s a seed",
]


def _about(results: Results) -> str:
    seeds = ", ".join(map(str, results.seeds))
    text = "" if results.split is None else f"Split: {results.split}. "
    text += f"Seeds: {seeds}"
    text += "; scores are mean ± sample deviation over them. " if len(results.seeds) > 1 else ". "
    return text + (
        f"p: two-sided paired bootstrap against the row above on changed pairs, {results.resamples:,} resamples of "
        "pairs, scores averaged over seeds; it holds for these trained models and says nothing of other seeds."
    )


def _left_out(results: Results) -> Iterator[str]:
    rows = [row for row in results.rows if row.left_out]
    if rows:
        counts = ", ".join(f"{row.label}: {len(row.left_out):,}" for row in rows)
        yield (
            f"Pairs that a stage skipped (engine.on_bad_item: skip), and that a row's scores are therefore without: "
            f"{counts}. Rows are compared with each other on the pairs that all of them describe, without "
            f"{len(results.left_out):,}."
        )


def _summary(row: RowResult) -> Sequence[str]:
    if row.metrics is None:
        return ["failed" if row.failed else "not run", *["–"] * (len(_HEAD) - 2)]
    seconds = row.training_seconds
    return [
        _cell(row, "changed", "cider_d"),
        _cell(row, "changed", "bleu_4"),
        _cell(row, "changed", "s_m"),
        _cell(row, "all", "s_m"),
        _cell(row, FLAG, "accuracy"),
        *("–" if row.above is None else _p(row.above[metric]) for metric in COMPARED),
        "–" if seconds is None else f"{seconds:,.{0 if seconds >= 10 else 1}f}",
    ]


def _scores(subset: Subset | str, names: Sequence[str]) -> Cells:
    return lambda row: [_cell(row, subset, name) for name in names]


def _above(row: RowResult) -> Mapping[str, Comparison] | None:
    return row.above


def _first(row: RowResult) -> Mapping[str, Comparison] | None:
    return row.first


def _comparisons(against: Callable[[RowResult], Mapping[str, Comparison] | None]) -> Cells:
    return lambda row: [_difference(compared[metric]) for metric in COMPARED] if (compared := against(row)) else []


def _run(row: RowResult) -> Sequence[str]:
    return [row.folder or "–", ", ".join(f"`{change}`" for change in row.changes) or "–"]


def _lines(head: Sequence[str], rows: Sequence[RowResult], cells: Cells | None) -> str:
    """Write a table with a line per row, or, without `cells`, per row and seed."""
    table = [_line(head), _line(["---" if title in _TEXT else "---:" for title in head])]
    for row in rows:
        table.extend(_seed_lines(row) if cells is None else [_line([row.label, *cells(row)])])
    return "\n".join(table)


def _seed_lines(row: RowResult) -> Iterator[str]:
    for seed, scores in row.by_seed("changed").items():
        yield _line([row.label, seed, *(_number(scores[name]) for name in METRICS)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell(row: RowResult, subset: Subset | str, name: str) -> str:
    mean, deviation = row.numbers(subset)
    if mean is None or (value := mean[name]) is None:
        return "–"
    spread = None if deviation is None else deviation[name]
    return _number(value) if spread is None else f"{value:.2f} ± {spread:.2f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _difference(comparison: Comparison) -> str:
    return f"{comparison.difference:+.2f} ({comparison.low:+.2f} to {comparison.high:+.2f}), {_p(comparison)}"


def _p(comparison: Comparison) -> str:
    return f"{comparison.p:.3f}"


_MEAN, _SEED = "#1b6ca8", "#b9b9b9"
_LONGEST: Final = 40
"""Characters of a label beyond which it is cut."""


def draw_rows(results: Results, path: Path) -> Path:
    """Draw CIDEr-D and BLEU-4 of every row that has scores, on changed pairs or, where there are none, on all.

    Rows without scores keep their position and stay empty.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    subset: Subset = "changed" if results.pairs.get("changed") else "all"
    rows = results.rows
    figure = Figure(figsize=(10, 1.6 + 0.4 * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(COMPARED), sharey=True)
    for axis, metric in zip(axes, COMPARED, strict=True):
        for position, row in enumerate(rows):
            mean, deviation = row.numbers(subset)
            if mean is None or (centre := mean[metric]) is None:
                continue
            seeds = [scores[metric] for scores in row.by_seed(subset).values()]
            axis.scatter(seeds, [position] * len(seeds), s=14, color=_SEED, zorder=2)
            spread = None if deviation is None else deviation[metric]
            axis.errorbar(centre, position, xerr=spread, fmt="o", color=_MEAN, capsize=3, zorder=3)
        axis.set_title(f"{TITLES[metric]}, {subset} pairs ({results.pairs.get(subset, 0):,})")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(rows)), [_short(row.label) for row in rows])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel("score × 100; bars: deviation over seeds, grey: each seed", fontsize="small")
    with atomic_path(path) as temporary:
        # Matplotlib would write its version into the file.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path


def _short(label: str) -> str:
    # A dollar sign would start a formula.
    return (label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…").replace("$", r"\$")
