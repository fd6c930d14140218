"""The graph as a picture: the most frequent entities, and arrows for what is stated most often between them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.errors import OutputError
from pipeline.files import atomic_path
from pipeline.language.graph.layout import place_nodes, spread_labels
from pipeline.language.graph.records import CaptionGraph, Edge
from pipeline.language.triples.records import FAMILIES, Family

_COLOURS: Final[dict[Family, str]] = {
    "appear": "#1b7f5c",
    "disappear": "#c0392b",
    "replace": "#7d4fb3",
    "spatial": "#8a8f98",
    "other": "#d08b2c",
}
_SIZE: Final = (14.0, 10.0)
"""Inches."""
_LOOP: Final = np.array([0.35, 0.1])
"""Where an arrow from an entity to itself begins, from the label's centre, in inches."""
_CHARACTER: Final = 0.105
"""Width of a label's character in inches at the smallest size."""


def draw_graph(graph: CaptionGraph, path: Path, *, entities: int = 30, arrows: int = 60, labels: int = 25) -> Path:
    """Draw the graph into an SVG, PDF or PNG file, as the name ends; the same graph gives the same bytes.

    Between two entities there is one arrow per family, labelled with its most frequent relation; thickness grows with
    how often it is stated. "scene" stands for no second entity: what happens to an entity without one is not drawn,
    since the arrows would hide the others.

    Args:
        graph: The graph.
        path: File to write.
        entities: Most frequent entities to draw.
        arrows: Most frequent arrows to draw.
        labels: Most frequent arrows to label.

    Raises:
        OutputError: The name ends otherwise, or the file cannot be written.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("svg", "png", "pdf"):
        raise OutputError("a graph is drawn as .svg, .png or .pdf", where=path, fix="end the name with one of these")
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyArrowPatch

    shown = [i for i, entity in enumerate(graph.entities) if entity.name != "scene"][:entities] or [0]
    drawn = _chosen(_arrows(graph, shown), arrows)
    sizes = _sizes(graph, shown)
    places = _places(shown, drawn, sizes)
    # Text stays text, so that the SVG can be searched; a salt keeps its ids the same.
    with mpl.rc_context({"svg.hashsalt": "sagecc", "svg.fonttype": "none", "pdf.compression": 6}):
        figure = Figure(figsize=_SIZE, dpi=110)
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set_axis_off()
        axis.set_xlim(0, _SIZE[0])
        axis.set_ylim(0, _SIZE[1])
        most = max((arrow.count for arrow in drawn), default=1)
        at = {node: places[row] for row, node in enumerate(shown)}
        taken = [_box(places[row], sizes[row]) for row in range(len(shown))]
        named = 0
        for arrow in drawn:
            family = graph.relations[arrow.relation].family
            strength = np.log1p(arrow.count) / np.log1p(most)
            loop = arrow.head == arrow.tail
            start, end = at[arrow.head], at[arrow.tail]
            if loop:
                start, end = start + _LOOP, start + _LOOP * (-1, 1)
            bend = 1.6 if loop else 0.12 + 0.06 * FAMILIES.index(family)
            axis.add_patch(
                FancyArrowPatch(
                    (float(start[0]), float(start[1])),
                    (float(end[0]), float(end[1])),
                    connectionstyle=f"arc3,rad={bend}",
                    arrowstyle="-|>",
                    mutation_scale=8 + 8 * strength,
                    shrinkA=14,
                    shrinkB=16,
                    linewidth=0.4 + 3 * strength**2,
                    color=_COLOURS[family],
                    alpha=0.35 + 0.5 * strength,
                    zorder=1,
                )
            )
            name = graph.relations[arrow.relation].name
            middle = (start + end) / 2 + np.array([end[1] - start[1], start[0] - end[0]]) * bend / 2
            box = _box(middle, np.array([len(name) * 0.075, 0.17]))
            if named < labels and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                named += 1
                axis.text(
                    float(middle[0]),
                    float(middle[1]),
                    name,
                    fontsize=8,
                    color=_COLOURS[family],
                    ha="center",
                    va="center",
                    zorder=2,
                    bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.85},
                )
        for row, node in enumerate(shown):
            entity = graph.entities[node]
            axis.text(
                float(places[row, 0]),
                float(places[row, 1]),
                entity.name,
                fontsize=_font(graph, node),
                ha="center",
                va="center",
                zorder=3,
                bbox={"boxstyle": "round,pad=0.3", "fc": "#fff8e6", "ec": "#3a3a3a", "lw": 0.8},
            )
        used = {graph.relations[arrow.relation].family for arrow in drawn}
        handles = [
            Line2D([], [], color=_COLOURS[family], lw=2.5, label=family) for family in FAMILIES if family in used
        ]
        if handles:
            axis.legend(handles=handles, loc="lower left", frameon=False, fontsize=10)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, facecolor="white", metadata=_metadata(kind))
    return path


def _metadata(kind: str) -> dict[str, None]:
    """Keep date and version of the library out of the file."""
    return {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}.get(
        kind, {"CreationDate": None, "Producer": None, "Creator": None}
    )


def _arrows(graph: CaptionGraph, shown: list[int]) -> list[Edge]:
    """Return an arrow per ordered pair and family, named after its commonest relation, the most stated first."""
    groups: dict[tuple[int, int, Family], list[Edge]] = defaultdict(list)
    for edge in graph.edges:
        if edge.head in shown and edge.tail in shown:
            groups[edge.head, edge.tail, graph.relations[edge.relation].family].append(edge)
    found = []
    for edges in groups.values():
        best = max(edges, key=lambda edge: (edge.count, -edge.relation))
        found.append(replace(best, count=sum(edge.count for edge in edges)))
    return sorted(found, key=lambda edge: (-edge.count, edge))


def _font(graph: CaptionGraph, node: int) -> float:
    share = np.log1p(graph.entities[node].count) / np.log1p(max(entity.count for entity in graph.entities))
    return float(8 + 7 * share**2)


def _chosen(found: list[Edge], arrows: int) -> list[Edge]:
    """Return the most stated arrows, and of every entity without one its own most stated."""
    chosen = found[:arrows]
    linked = {node for arrow in chosen for node in (arrow.head, arrow.tail) if arrow.head != arrow.tail}
    for arrow in found[arrows:]:
        if not {arrow.head, arrow.tail} <= linked:
            chosen.append(arrow)
            linked |= {arrow.head, arrow.tail}
    return chosen


def _sizes(graph: CaptionGraph, shown: list[int]) -> npt.NDArray[np.float64]:
    """Return width and height of the entities' labels in inches, (N, 2)."""
    fonts = np.array([_font(graph, node) for node in shown])
    letters = np.array([len(graph.entities[node].name) for node in shown])
    return np.stack([letters * _CHARACTER * fonts / 10 + 0.35, fonts / 72 * 1.5 + 0.35], axis=1)


def _places(shown: list[int], drawn: list[Edge], sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return where the entities' labels stand, (N, 2) in inches."""
    row = {node: position for position, node in enumerate(shown)}
    links = np.zeros((len(shown), len(shown)))
    for arrow in drawn:
        if arrow.head != arrow.tail:
            links[row[arrow.head], row[arrow.tail]] += arrow.count
    room = np.array(_SIZE) / 2 - sizes.max(0) / 2 - 0.2
    places = np.array(_SIZE) / 2 + place_nodes(links + links.T) * room
    return spread_labels(places, sizes)


def _box(centre: npt.NDArray[np.float64], size: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return left, lower, right and upper edge."""
    (left, lower), (right, upper) = centre - size / 2, centre + size / 2
    return float(left), float(lower), float(right), float(upper)


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
