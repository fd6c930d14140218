"""Link prediction measured: the rank of the true node among all, other true ones left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

Scorer = Callable[[Tensor, bool], Tensor]
"""From triples (E, 3) and whether tails are sought (else heads) to the scores (E, N) of all nodes in their place."""


@dataclass(frozen=True)
class Ranking:
    """Filtered link prediction over heads and tails.

    Attributes:
        mrr: Mean of one over the rank.
        hits_1: Share of ranks of 1.
        hits_3: Share of ranks up to 3.
        hits_10: Share of ranks up to 10.
        ranks: Number of ranks: two per triple.
    """

    mrr: float
    hits_1: float
    hits_3: float
    hits_10: float
    ranks: int

    def values(self) -> Mapping[str, float]:
        """Return all numbers by name."""
        return asdict(self)


def rank(scorer: Scorer, triples: Tensor, known: Tensor, nodes: int) -> Ranking:
    """Rank the tail and the head of every triple among all nodes, without the others that are true as well.

    Equal scores share the mean of their ranks, so that a constant scorer gains nothing. The filtered setting is that of
    Bordes et al., "Translating embeddings for modeling multi-relational data" (2013).

    Args:
        scorer: Scores all nodes in the place of the tail, or of the head.
        triples: (E, 3) to rank; at least one.
        known: (K, 3) all true triples, those of `triples` among them.
        nodes: N.

    Raises:
        ValueError: There is nothing to rank.
    """
    if not len(triples):
        raise ValueError("there are no triples to rank")
    ranks = torch.cat([_ranks(scorer, triples, known, nodes, tails) for tails in (True, False)])
    first, third, tenth = (float((ranks <= most).double().mean()) for most in (1, 3, 10))
    return Ranking(float((1 / ranks).mean()), first, third, tenth, len(ranks))


def true_places(triples: Tensor, known: Tensor, nodes: int, tails: bool) -> Tensor:
    """Return (E, N) bool: which nodes make a known triple in the place of the tail, or of the head."""
    given, sought = (0, 2) if tails else (2, 0)
    keys = known[:, given] * (int(max(known[:, 1].max(), triples[:, 1].max())) + 1) + known[:, 1]
    wanted = triples[:, given] * (int(max(known[:, 1].max(), triples[:, 1].max())) + 1) + triples[:, 1]
    same = (wanted[:, None] == keys[None, :]).double()
    places = torch.zeros(len(known), nodes, dtype=torch.double)
    places[torch.arange(len(known)), known[:, sought]] = 1
    return same @ places > 0


def _ranks(scorer: Scorer, triples: Tensor, known: Tensor, nodes: int, tails: bool) -> Tensor:
    scores = scorer(triples, tails).double()
    truth = triples[:, 2 if tails else 0, None]
    own = scores.gather(1, truth)
    rivals = ~true_places(triples, known, nodes, tails)
    better = ((scores > own) & rivals).sum(1)
    equal = ((scores == own) & rivals).sum(1)
    return 1 + better + equal / 2
