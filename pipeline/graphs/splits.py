"""Which triples are held out of the pretraining."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Split(NamedTuple):
    """Positions (·,) of the triples to learn from, to choose the epoch by, and to measure on; each rising."""

    train: Tensor
    val: Tensor
    test: Tensor


def split_triples(triples: Tensor, val_share: float, test_share: float, seed: int) -> Split:
    """Draw triples to hold out; every node and relation keeps at least one triple to learn from.

    So a relation that occurs once, or a node with one edge, is never held out, and a small graph holds out fewer
    triples than asked, or none.
    """
    order = torch.randperm(len(triples), generator=torch.Generator().manual_seed(seed))
    wanted = [round(len(triples) * share) for share in (val_share, test_share)]
    nodes = torch.bincount(triples[:, [0, 2]].flatten())
    relations = torch.bincount(triples[:, 1])
    parts: list[list[int]] = [[], [], []]
    for position in order.tolist():
        head, relation, tail = triples[position].tolist()
        uses = 2 if head == tail else 1
        spare = nodes[head] > uses and nodes[tail] > uses and relations[relation] > 1
        part = 1 if len(parts[1]) < wanted[0] else 2 if len(parts[2]) < wanted[1] else 0
        if not spare or part == 0:
            parts[0].append(position)
            continue
        parts[part].append(position)
        nodes[head] -= 1
        nodes[tail] -= 1
        relations[relation] -= 1
    return Split(*(torch.tensor(sorted(part), dtype=torch.long) for part in parts))
