"""Choosing the best of many with ties broken by place, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

_LOW = (1 << 32) - 1


def ranked_top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest values of each row, best first; of equal values the earlier comes first.

    `torch.topk` leaves the order of equal values open. Here value and place are packed into one integer, of which
    no two are equal: the bits of a float32, made to sort like integers, above the place counted backwards.

    Args:
        values: (B, S) float32 without NaN.
        count: How many, at most S.

    Returns:
        Values and their places in the row, both (B, count).
    """
    bits = (values + 0.0).view(torch.int32)  # + 0.0 makes −0.0 and 0.0 one
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    places = torch.arange(values.shape[1], device=values.device)
    keys = (ordered << 32) + (_LOW - places)
    best = keys.topk(count, dim=1).values
    chosen = _LOW - (best & _LOW)
    return values.gather(1, chosen), chosen
