"""A set of any size as one vector."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class SetPooling(nn.Module):
    """Pool sets, which neither the order of their members nor padding changes.

    "mean": (1/N) Σ_i x_i. "attention": Σ_i a_i x_i with a = softmax_i(q · x_i / √w) and a learned query q, which
    starts at zero and so as the mean. A set without members is pooled to a vector e that is learned, starting at
    zero, or stays zero.

    Args:
        width: Width w of a member.
        kind: Which of the two.
        empty: Whether e is learned.
    """

    def __init__(self, width: int, kind: Literal["mean", "attention"], empty: Literal["learned", "zero"]) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width)) if kind == "attention" else None
        self.empty = nn.Parameter(torch.zeros(width)) if empty == "learned" else None

    def forward(self, members: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pool B sets.

        Args:
            members: (B, N, w), padded; N may be 0.
            mask: (B, N) boolean, True at members.

        Returns:
            (B, w) float32, and the members' weights (B, N), which sum to 1, or to 0 where there are no members.
        """
        members = members.float().masked_fill(~mask.unsqueeze(-1), 0.0)
        if self.query is None:
            weights = mask / mask.sum(1, keepdim=True).clamp(min=1)
        else:
            logits = (members * self.query).sum(-1) * members.shape[-1] ** -0.5
            # Not −∞: a set without members would get weights that are no numbers.
            weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(1) * mask
        pooled = (weights.unsqueeze(-1) * members).sum(1)
        if self.empty is not None:
            pooled = torch.where(mask.any(1, keepdim=True), pooled, self.empty)
        return pooled, weights
