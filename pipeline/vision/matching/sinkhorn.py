"""Optimal transport with a dustbin, by Sinkhorn's iterations on logarithms (Sarlin et al. 2020, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

NEVER = -1e9
"""Stands for log 0, where an infinity would turn gradients into NaN; exp of it is exactly 0."""


def log_optimal_transport(scores: Tensor, bin_score: Tensor, before: Tensor, after: Tensor, iterations: int) -> Tensor:
    """Return the logarithm of the assignment with dustbins that Sinkhorn's iterations arrive at.

    Every region carries the mass 1, the dustbin of each date as much as the other date has regions. Padding is no part
    of the problem: it changes no other entry.

    Args:
        scores: (B, M, N), similarity of each region before with each one after.
        bin_score: Scalar, the score of every region with the dustbin.
        before: (B, M) bool, false at padding.
        after: (B, N) bool, false at padding.
        iterations: How often rows and columns are normalised in turn.

    Returns:
        (B, M + 1, N + 1) log-probabilities, the last row and column being the dustbins; −1e9 at padding.
    """
    rows, columns = F.pad(before, (0, 1), value=True), F.pad(after, (0, 1), value=True)
    inside = rows[:, :, None] & columns[:, None, :]
    with_row = torch.cat([scores, bin_score.expand(len(scores), 1, scores.shape[2])], dim=1)
    table = torch.cat([with_row, bin_score.expand(len(scores), with_row.shape[1], 1)], dim=2)
    table = torch.where(inside, table, NEVER)
    row_mass, column_mass = _log_masses(before, after), _log_masses(after, before)
    u, v = torch.zeros_like(row_mass), torch.zeros_like(column_mass)
    for _ in range(iterations):
        u = torch.where(rows, row_mass - torch.logsumexp(table + v[:, None, :], dim=2), 0.0)
        v = torch.where(columns, column_mass - torch.logsumexp(table + u[:, :, None], dim=1), 0.0)
    return torch.where(inside, table + u[:, :, None] + v[:, None, :], NEVER)


def _log_masses(own: Tensor, other: Tensor) -> Tensor:
    """Return (B, n + 1): log 1 for every region of a date, and for its dustbin the log of the other date's number."""
    number = other.sum(1, keepdim=True)
    dustbin = torch.where(number > 0, number.clamp(min=1).float().log(), NEVER)
    return torch.cat([torch.zeros(own.shape, device=own.device), dustbin], dim=1)
