"""Pairs with what the model says of them, as a picture to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.datasets.images import read_rgb
from pipeline.datasets.records import Pair
from pipeline.files import atomic_path

_COLUMNS = 2
_CHANGED_SHARE = 0.75


def choose_examples(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Choose pairs spread evenly over the split, three changed ones for each unchanged one, whatever the captions."""
    changed = [pair for pair in pairs if pair.changed is not False]
    unchanged = [pair for pair in pairs if pair.changed is False]
    fewer = min(len(unchanged), max(count - len(changed), round(count * (1 - _CHANGED_SHARE))))
    return [*_spread(changed, count - fewer), *_spread(unchanged, fewer)]


def _spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    count = min(count, len(pairs))
    return [pairs[place * len(pairs) // count] for place in range(count)]


def draw_examples(pairs: Sequence[Pair], captions: Mapping[str, str], root: Path, path: Path) -> Path:
    """Draw each pair, before beside after, with the generated caption and its first reference, into a PNG file.

    Raises:
        DataError: An image cannot be read.
        OutputError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    rows = -(-len(pairs) // _COLUMNS)
    figure = Figure(figsize=(5.0 * _COLUMNS, 3.2 * rows), dpi=100, layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    for axis, pair in zip(grid.flat, pairs, strict=False):
        before, after = (read_rgb(root / name, convert=True) for name in (pair.before, pair.after))
        gap = np.full((before.shape[0], max(2, before.shape[1] // 32), 3), 255, dtype=np.uint8)
        axis.imshow(np.concatenate([before, gap, after], axis=1))
        axis.set_title(textwrap.fill(captions[pair.id], 58), loc="left", fontsize=10, fontweight="bold")
        if pair.captions:
            reference = textwrap.fill(f"reference: {pair.captions[0]}", 70)
            axis.text(0, -0.03, reference, transform=axis.transAxes, va="top", fontsize=8.5, color="#666666")
    with atomic_path(path) as temporary:
        # Matplotlib would write its version into the file.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path
