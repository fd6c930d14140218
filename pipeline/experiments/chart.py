"""An experiment as a picture: a dot per row, with its deviation over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pipeline.evaluation.bootstrap import COMPARED
from pipeline.evaluation.subsets import Subset
from pipeline.evaluation.tables import TITLES
from pipeline.experiments.results import Results
from pipeline.files import atomic_path

_MEAN, _SEED = "#1b6ca8", "#b9b9b9"
_LONGEST: Final = 40
"""Characters of a label beyond which it is cut."""


def draw_rows(results: Results, path: Path) -> Path:
    """Draw CIDEr-D and BLEU-4 of every row that has scores, on changed pairs or, where there are none, on all.

    Rows without scores keep their place and stay empty.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    subset: Subset = "changed" if results.pairs.get("changed") else "all"
    rows = results.rows
    figure = Figure(figsize=(10, 1.6 + 0.4 * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(COMPARED), sharey=True)
    for axis, metric in zip(axes, COMPARED, strict=True):
        for place, row in enumerate(rows):
            mean, deviation = row.numbers(subset)
            if mean is None or (centre := mean[metric]) is None:
                continue
            seeds = [scores[metric] for scores in row.by_seed(subset).values()]
            axis.scatter(seeds, [place] * len(seeds), s=14, color=_SEED, zorder=2)
            spread = None if deviation is None else deviation[metric]
            axis.errorbar(centre, place, xerr=spread, fmt="o", color=_MEAN, capsize=3, zorder=3)
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
