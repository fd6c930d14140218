"""An experiment as Markdown: what matters in one line per row, and the rest below."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from pipeline.evaluation.bootstrap import COMPARED, Comparison
from pipeline.evaluation.scores import METRICS
from pipeline.evaluation.subsets import SUBSETS, Subset
from pipeline.evaluation.tables import TITLES
from pipeline.experiments.results import FLAG, Results, RowResult

Cells = Callable[[RowResult], Sequence[str]]


def markdown(results: Results) -> str:
    """Write the table, every score by subset, the comparisons, each seed's scores, and what each row was run with."""
    scored = [row for row in results.rows if row.metrics is not None]
    parts = [f"# {results.title or results.name}", _about(results), _lines(_HEAD, results.rows, _summary)]
    parts.extend(f"**{row.label}** {row.reason}" for row in results.rows if row.failed)
    for subset in SUBSETS:
        rows = [row for row in scored if row.numbers(subset)[0] is not None]
        if rows:
            parts.append(f"## Scores: {subset} pairs ({results.pairs[subset]:,})")
            parts.append(_lines(["row", *(TITLES[name] for name in METRICS)], rows, _scores(subset, METRICS)))
    flagged = [row for row in scored if row.numbers(FLAG)[0] is not None]
    if flagged:
        names = ("accuracy", "precision", "recall", "f1")
        parts.append("## “Changed”, as the sentences imply it")
        parts.append(_lines(["row", *(TITLES[name] for name in names)], flagged, _scores(FLAG, names)))
    for other, against in (("row above", _above), ("first row", _first)):
        compared = [row for row in scored if against(row) is not None]
        # Of two rows the first is the one above.
        if len(compared) > (other == "first row"):
            parts.append(f"## Against the {other}, changed pairs: difference (95 % of resamples), p")
            parts.append(_lines(["row", *(TITLES[metric] for metric in COMPARED)], compared, _comparisons(against)))
    if any(row.by_seed("changed") for row in scored):
        parts.append("## Each seed, changed pairs")
        parts.append(_lines(["row", "seed", *(TITLES[name] for name in METRICS)], scored, None))
    parts.append("## Runs")
    parts.append(_lines(_RUNS, results.rows, _run))
    return "\n\n".join(parts) + "\n"


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


def _scores(part: Subset | str, names: Sequence[str]) -> Cells:
    return lambda row: [_cell(row, part, name) for name in names]


def _above(row: RowResult) -> Mapping[str, Comparison] | None:
    return row.above


def _first(row: RowResult) -> Mapping[str, Comparison] | None:
    return row.first


def _comparisons(against: Callable[[RowResult], Mapping[str, Comparison] | None]) -> Cells:
    return lambda row: [_difference(found[metric]) for metric in COMPARED] if (found := against(row)) else []


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


def _cell(row: RowResult, part: Subset | str, name: str) -> str:
    mean, deviation = row.numbers(part)
    if mean is None or (value := mean[name]) is None:
        return "–"
    spread = None if deviation is None else deviation[name]
    return _number(value) if spread is None else f"{value:.2f} ± {spread:.2f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _difference(found: Comparison) -> str:
    return f"{found.difference:+.2f} ({found.low:+.2f} to {found.high:+.2f}), {_p(found)}"


def _p(found: Comparison) -> str:
    return f"{found.p:.3f}"
