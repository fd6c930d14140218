"""An evaluation as a picture: the rows side by side, changed pairs beside all pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pipeline.evaluation.report import Report
from pipeline.evaluation.rows import DEVIATION, LABELS, MODEL
from pipeline.evaluation.subsets import Subset
from pipeline.evaluation.tables import TITLES
from pipeline.files import atomic_path

_METRICS: Final = ("bleu_4", "meteor", "rouge_l", "cider_d", "s_m")
_PANELS: Final[tuple[Subset, ...]] = ("changed", "all")
_COLOURS: Final = dict(zip(LABELS, ("#1b6ca8", "#b9b9b9", "#e0a458"), strict=True))


def draw_scores(report: Report, path: Path) -> Path:
    """Draw a bar per row and metric, on words, with deviations over seeds, into a PNG file.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(_PANELS), sharey=True)
    width = 0.8 / len(LABELS)
    for axis, subset in zip(axes, _PANELS, strict=True):
        rows = report.scores["words"][subset] or {}
        for place, (name, label) in enumerate(LABELS.items()):
            known = [metric for metric in _METRICS if name in rows and rows[name][metric] is not None]
            spread = rows.get(DEVIATION, {}) if name == MODEL else {}
            axis.bar(
                [_METRICS.index(metric) + (place - (len(LABELS) - 1) / 2) * width for metric in known],
                [rows[name][metric] for metric in known],
                width,
                yerr=[spread[metric] for metric in known] if spread else None,
                label=label,
                color=_COLOURS[name],
            )
        axis.set_title(f"{subset} pairs ({report.pairs[subset]:,})")
        axis.set_xticks(range(len(_METRICS)), [TITLES[metric] for metric in _METRICS])
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    axes[0].set_ylabel("score × 100")
    axes[0].legend(frameon=False)
    with atomic_path(path) as temporary:
        # Matplotlib would write its version into the file.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path
