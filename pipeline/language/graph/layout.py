"""Where to draw the nodes of a graph: near what they are linked with, apart from what they are not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_ROUNDS = 300


def place_nodes(links: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Place nodes by stress majorisation (de Leeuw's SMACOF): distances in the plane follow those in the graph.

    A link's length falls with its weight; nodes without a path are as far apart as the graph is wide. The start is a
    spiral in the order given, so the same graph gives the same picture.

    Args:
        links: (N, N) symmetric, how strongly two nodes are linked; 0 for no link.

    Returns:
        (N, 2) positions that fill the unit disc.
    """
    from scipy.sparse.csgraph import shortest_path

    nodes = len(links)
    if nodes == 1:
        return np.zeros((1, 2))
    strongest = links.max() or 1.0
    lengths = np.where(links > 0, 1.6 - np.log1p(links) / np.log1p(strongest), 0.0)
    apart = shortest_path(lengths, directed=False)
    finite = apart[np.isfinite(apart)]
    apart = np.where(np.isfinite(apart), apart, 1.5 * (finite.max() or 1.0))
    # Many nodes share one distance to a hub; a floor keeps their labels from one another.
    apart = np.maximum(apart, 0.9) * (1 - np.eye(nodes))
    weights = 1 / np.maximum(apart, 1e-9) ** 2 * (1 - np.eye(nodes))
    laplacian = np.diag(weights.sum(1)) - weights
    inverse = np.linalg.pinv(laplacian)
    angle = 2.399963 * np.arange(nodes)
    places = np.sqrt(np.arange(nodes) + 0.5)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for _ in range(_ROUNDS):
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
        ratio = -weights * apart / np.where(gaps > 0, gaps, 1)
        np.fill_diagonal(ratio, 0)
        np.fill_diagonal(ratio, -ratio.sum(1))
        places = inverse @ (ratio @ places)
    return _fill_disc(places - places.mean(0))


def _fill_disc(places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keep directions and the order of distances from the centre, and spread the nodes evenly over the unit disc."""
    radii = np.linalg.norm(places, axis=1)
    ranks = np.empty(len(places))
    ranks[np.argsort(radii, kind="stable")] = np.arange(len(places))
    return places / np.where(radii > 0, radii, 1)[:, None] * np.sqrt((ranks + 0.3) / (len(places) - 0.7))[:, None]


def spread_labels(
    places: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], rounds: int = 400
) -> npt.NDArray[np.float64]:
    """Push boxes apart until none overlaps another, or the rounds are over.

    Args:
        places: (N, 2) centres of the boxes.
        sizes: (N, 2) width and height, in the same unit.
        rounds: Most rounds.

    Returns:
        (N, 2) new centres.
    """
    places = places.copy()
    for _ in range(rounds):
        moved = False
        for one in range(len(places)):
            for other in range(one):
                gap = places[one] - places[other]
                overlap = (sizes[one] + sizes[other]) / 2 - np.abs(gap)
                if (overlap <= 0).any():
                    continue
                axis = int(np.argmin(overlap))
                step = (overlap[axis] / 2 + 1e-6) * (1.0 if gap[axis] >= 0 else -1.0)
                places[one, axis] += step
                places[other, axis] -= step
                moved = True
        if not moved:
            break
    return places
