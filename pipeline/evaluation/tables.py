"""An evaluation as tables: Markdown for people, CSV for plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Final

from pipeline.evaluation.report import Report
from pipeline.evaluation.rows import DEVIATION, LABELS, MODEL
from pipeline.evaluation.scores import METRICS
from pipeline.evaluation.seeds import Numbers

TITLES: Final = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
    "s_m": "S*m",
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
}
"""How the metrics are called in tables and plots."""

_FAMILIES: Final = {"words": "Words", "ids": "Vocabulary ids"}
_FLAG: Final = ("accuracy", "precision", "recall", "f1")


def markdown(report: Report) -> str:
    """Write the report as Markdown: changed pairs first, then unchanged, then all, then the notes."""
    parts = ["# Evaluation", *report.notes]
    for family, subsets in report.scores.items():
        for subset, rows in subsets.items():
            if rows is not None:
                parts.append(f"## {_FAMILIES[family]}: {subset} pairs ({report.pairs[subset]:,})")
                parts.append("\n".join(_table(rows, METRICS)))
    if report.change_flag:
        parts.append("## “Changed”, as the sentences imply it")
        parts.append("\n".join(_table(report.change_flag, _FLAG)))
    return "\n\n".join(parts) + "\n"


def score_table(report: Report) -> str:
    """Write the scores as CSV, a line per family, subset and row; what is missing is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["family", "subset", "row", *METRICS])
    for family, subsets in report.scores.items():
        for subset, rows in subsets.items():
            for name, scores in (rows or {}).items():
                writer.writerow([family, subset, name, *(_exact(scores[metric]) for metric in METRICS)])
    return text.getvalue()


def _table(rows: Mapping[str, Numbers], metrics: tuple[str, ...]) -> Iterator[str]:
    yield "| | " + " | ".join(TITLES[metric] for metric in metrics) + " |"
    yield "| --- |" + " ---: |" * len(metrics)
    for name, label in LABELS.items():
        if name in rows:
            spread = rows.get(DEVIATION) if name == MODEL else None
            cells = (_cell(rows[name][metric], None if spread is None else spread[metric]) for metric in metrics)
            yield f"| {label} | " + " | ".join(cells) + " |"


def _cell(value: float | None, deviation: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if deviation is None else f"{value:.2f} ± {deviation:.2f}"


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)
