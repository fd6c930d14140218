"""The caption graph for people and for other programs: a picture, GraphML and JSON-LD."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from pipeline.caption_graph.records import CaptionGraph, Edge
from pipeline.caption_graph.triples.records import FAMILIES, Family
from pipeline.errors import OutputError
from pipeline.files import atomic_path, write_text
from pipeline.targets import resolve_target

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

    Between two entities there is one arrow per family, labelled with its most frequent relation; its width grows with
    the number of statements. "scene" stands for no second entity: what happens to an entity without one is not drawn,
    since the arrows would hide the others.

    Args:
        graph: The graph.
        path: File to write.
        entities: Most frequent entities to draw.
        arrows: Most frequent arrows to draw.
        labels: Most frequent arrows to label.

    A stream whose name has no ending, such as standard output, gets SVG.

    Raises:
        OutputError: The name ends otherwise, or the file cannot be written.
    """
    kind = path.suffix.lower().lstrip(".") or ("svg" if resolve_target(path).file is None else "")
    if kind not in ("svg", "png", "pdf"):
        raise OutputError("a graph is drawn as .svg, .png or .pdf", where=path, fix="end the name with one of these")
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyArrowPatch

    nodes = [i for i, entity in enumerate(graph.entities) if entity.name != "scene"][:entities] or [0]
    edges = _select_arrows(_arrows(graph, nodes), arrows)
    sizes = _label_sizes(graph, nodes)
    centres = _label_centres(nodes, edges, sizes)
    # Text stays text, so that the SVG can be searched; a salt keeps its ids the same.
    with mpl.rc_context({"svg.hashsalt": "sagecc", "svg.fonttype": "none", "pdf.compression": 6}):
        figure = Figure(figsize=_SIZE, dpi=110)
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set_axis_off()
        axis.set_xlim(0, _SIZE[0])
        axis.set_ylim(0, _SIZE[1])
        highest = max((edge.count for edge in edges), default=1)
        centre_of = dict(zip(nodes, centres, strict=True))
        occupied = [_box(centre, size) for centre, size in zip(centres, sizes, strict=True)]
        labelled = 0
        for edge in edges:
            family = graph.relations[edge.relation].family
            strength = np.log1p(edge.count) / np.log1p(highest)
            loop = edge.head == edge.tail
            start, end = centre_of[edge.head], centre_of[edge.tail]
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
            name = graph.relations[edge.relation].name
            middle = (start + end) / 2 + np.array([end[1] - start[1], start[0] - end[0]]) * bend / 2
            box = _box(middle, np.array([len(name) * 0.075, 0.17]))
            if labelled < labels and not any(_overlap(box, other) for other in occupied):
                occupied.append(box)
                labelled += 1
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
        for node, centre in centre_of.items():
            axis.text(
                float(centre[0]),
                float(centre[1]),
                graph.entities[node].name,
                fontsize=_font_size(graph, node),
                ha="center",
                va="center",
                zorder=3,
                bbox={"boxstyle": "round,pad=0.3", "fc": "#fff8e6", "ec": "#3a3a3a", "lw": 0.8},
            )
        families = {graph.relations[edge.relation].family for edge in edges}
        handles = [
            Line2D([], [], color=_COLOURS[family], lw=2.5, label=family) for family in FAMILIES if family in families
        ]
        if handles:
            axis.legend(handles=handles, loc="lower left", frameon=False, fontsize=10)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, facecolor="white", metadata=_metadata(kind))
    return path


def _arrows(graph: CaptionGraph, nodes: list[int]) -> list[Edge]:
    """Return an arrow per ordered pair and family, named after its commonest relation, in falling order of counts."""
    groups: dict[tuple[int, int, Family], list[Edge]] = defaultdict(list)
    for edge in graph.edges:
        if edge.head in nodes and edge.tail in nodes:
            groups[edge.head, edge.tail, graph.relations[edge.relation].family].append(edge)
    arrows = []
    for edges in groups.values():
        best = max(edges, key=lambda edge: (edge.count, -edge.relation))
        arrows.append(replace(best, count=sum(edge.count for edge in edges)))
    return sorted(arrows, key=lambda edge: (-edge.count, edge))


def _select_arrows(arrows: list[Edge], count: int) -> list[Edge]:
    """Return the `count` most frequent arrows, and the most frequent one of every entity that these leave without."""
    selected = arrows[:count]
    linked = {node for arrow in selected for node in (arrow.head, arrow.tail) if arrow.head != arrow.tail}
    for arrow in arrows[count:]:
        if not {arrow.head, arrow.tail} <= linked:
            selected.append(arrow)
            linked |= {arrow.head, arrow.tail}
    return selected


def _font_size(graph: CaptionGraph, node: int) -> float:
    share = np.log1p(graph.entities[node].count) / np.log1p(max(entity.count for entity in graph.entities))
    return float(8 + 7 * share**2)


def _label_sizes(graph: CaptionGraph, nodes: list[int]) -> npt.NDArray[np.float64]:
    """Return width and height of the entities' labels in inches, (N, 2)."""
    fonts = np.array([_font_size(graph, node) for node in nodes])
    letters = np.array([len(graph.entities[node].name) for node in nodes])
    return np.stack([letters * _CHARACTER * fonts / 10 + 0.35, fonts / 72 * 1.5 + 0.35], axis=1)


def _label_centres(nodes: list[int], edges: list[Edge], sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the centres of the entities' labels in inches, (N, 2)."""
    row = {node: position for position, node in enumerate(nodes)}
    links = np.zeros((len(nodes), len(nodes)))
    for edge in edges:
        if edge.head != edge.tail:
            links[row[edge.head], row[edge.tail]] += edge.count
    room = np.array(_SIZE) / 2 - sizes.max(0) / 2 - 0.2
    centres = np.array(_SIZE) / 2 + layout_nodes(links + links.T) * room
    return spread_labels(centres, sizes)


def layout_nodes(links: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Lay nodes out after Kamada and Kawai: distances in the plane follow those in the graph.

    A link's length falls with its weight; nodes without a path are as far apart as the graph is wide. The start is a
    spiral in the order given, so the same graph gives the same picture.

    Args:
        links: (N, N) symmetric, how strongly two nodes are linked; 0 for no link.

    Returns:
        (N, 2) positions that fill the unit disc.
    """
    import networkx as nx
    from scipy.sparse.csgraph import shortest_path

    nodes = len(links)
    if nodes == 1:
        return np.zeros((1, 2))
    strongest = links.max() or 1.0
    lengths = np.where(links > 0, 1.6 - np.log1p(links) / np.log1p(strongest), 0.0)
    distances = shortest_path(lengths, directed=False)
    finite = distances[np.isfinite(distances)]
    distances = np.where(np.isfinite(distances), distances, 1.5 * (finite.max() or 1.0))
    # Many nodes share one distance to a hub; a floor keeps their labels from one another.
    distances = np.maximum(distances, 0.9)
    angle = 2.399963 * np.arange(nodes)
    spiral = np.sqrt(np.arange(nodes) + 0.5)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    layout = nx.kamada_kawai_layout(
        nx.empty_graph(nodes),
        dist={node: dict(enumerate(row)) for node, row in enumerate(distances)},
        pos=dict(enumerate(spiral)),
    )
    positions = np.stack([layout[node] for node in range(nodes)])
    return _fill_disc(positions - positions.mean(0))


def _fill_disc(positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keep directions and the order of distances from the centre, and spread the nodes evenly over the unit disc."""
    radii = np.linalg.norm(positions, axis=1)
    ranks = np.empty(len(positions))
    ranks[np.argsort(radii, kind="stable")] = np.arange(len(positions))
    return positions / np.where(radii > 0, radii, 1)[:, None] * np.sqrt((ranks + 0.3) / (len(positions) - 0.7))[:, None]


def spread_labels(
    centres: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], rounds: int = 400
) -> npt.NDArray[np.float64]:
    """Push boxes apart until none overlaps another, or the rounds are over.

    networkx lays out points and knows nothing of the size of their labels.

    Args:
        centres: (N, 2) centres of the boxes.
        sizes: (N, 2) width and height, in the same unit.
        rounds: Most rounds.

    Returns:
        (N, 2) new centres.
    """
    centres = centres.copy()
    for _ in range(rounds):
        moved = False
        for one in range(len(centres)):
            for other in range(one):
                gap = centres[one] - centres[other]
                overlap = (sizes[one] + sizes[other]) / 2 - np.abs(gap)
                if (overlap <= 0).any():
                    continue
                axis = int(np.argmin(overlap))
                step = (overlap[axis] / 2 + 1e-6) * (1.0 if gap[axis] >= 0 else -1.0)
                centres[one, axis] += step
                centres[other, axis] -= step
                moved = True
        if not moved:
            break
    return centres


def _box(centre: npt.NDArray[np.float64], size: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return left, lower, right and upper edge."""
    (x0, y0), (x1, y1) = centre - size / 2, centre + size / 2
    return float(x0), float(y0), float(x1), float(y1)


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _metadata(kind: str) -> dict[str, None]:
    """Keep date and version of the library out of the file."""
    return {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}.get(
        kind, {"CreationDate": None, "Producer": None, "Creator": None}
    )


_VOCABULARY: Final = "urn:sagecc:"


def export_graph(graph: CaptionGraph, path: Path, form: str | None = None) -> Path:
    """Write the graph in `form`, "graphml" or "jsonld"; None: as the file's name ends.

    Raises:
        OutputError: The name ends otherwise and no form is given, or the file cannot be written.
    """
    form = form or {".graphml": "graphml", ".jsonld": "jsonld"}.get(path.suffix.lower())
    if form is None:
        raise OutputError(
            "which form shall the file have?", where=path, fix="end its name with .graphml or .jsonld, or give --format"
        )
    return export_graphml(graph, path) if form == "graphml" else export_jsonld(graph, path)


def export_graphml(graph: CaptionGraph, path: Path) -> Path:
    """Write GraphML: a directed multigraph; nodes with name and count, edges with relation, family and count."""
    import networkx as nx

    multigraph = nx.MultiDiGraph(id="captions")
    for number, entity in enumerate(graph.entities):
        multigraph.add_node(f"n{number}", name=entity.name, count=entity.count)
    for number, edge in enumerate(graph.edges):
        relation = graph.relations[edge.relation]
        ends = f"n{edge.head}", f"n{edge.tail}"
        multigraph.add_edge(*ends, key=f"e{number}", relation=relation.name, family=relation.family, stated=edge.count)
    return write_text(path, "\n".join(["<?xml version='1.0' encoding='utf-8'?>", *nx.generate_graphml(multigraph), ""]))


def export_jsonld(graph: CaptionGraph, path: Path) -> Path:
    """Write JSON-LD: every entity with its outgoing relations, and every triple once more with its count."""
    links: list[dict[str, list[dict[str, str]]]] = [{} for _ in graph.entities]
    for edge in graph.edges:
        relation = f"relation:{quote(graph.relations[edge.relation].name)}"
        links[edge.head].setdefault(relation, []).append({"@id": _entity_id(graph, edge.tail)})
    nodes: list[dict[str, Any]] = [
        {
            "@id": _entity_id(graph, number),
            "@type": "Entity",
            "name": entity.name,
            "count": entity.count,
            **links[number],
        }
        for number, entity in enumerate(graph.entities)
    ]
    relations = [
        {"@id": f"relation:{quote(r.name)}", "@type": "Relation", "name": r.name, "family": r.family, "count": r.count}
        for r in graph.relations
    ]
    statements = [
        {
            "@type": "Statement",
            "head": _entity_id(graph, edge.head),
            "predicate": f"relation:{quote(graph.relations[edge.relation].name)}",
            "tail": _entity_id(graph, edge.tail),
            "count": edge.count,
        }
        for edge in graph.edges
    ]
    reference = {"@type": "@id"}
    context = {
        "@vocab": _VOCABULARY,
        "entity": f"{_VOCABULARY}entity/",
        "relation": f"{_VOCABULARY}relation/",
        "head": reference,
        "predicate": reference,
        "tail": reference,
    }
    document = {"@context": context, "@graph": [*nodes, *relations, *statements]}
    return write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _entity_id(graph: CaptionGraph, number: int) -> str:
    return f"entity:{quote(graph.entities[number].name)}"
