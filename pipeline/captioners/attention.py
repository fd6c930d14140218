"""Multi-head attention whose keys and values are projected apart from its queries, and the feed-forward branch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention.

    Keys and values are a separate call, because a decoder projects an image once for all captions of its pair
    and keeps those of earlier words.

    Args:
        width: Width D of queries and output, a multiple of `heads`.
        heads: Number of heads H; each has d = D / H channels.
        memory_width: Width of what is attended to; the same as `width` when not given.
    """

    def __init__(self, width: int, heads: int, memory_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.memory = nn.Linear(memory_width or width, 2 * width)
        self.output = nn.Linear(width, width)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Project what is attended to, (N, S, memory_width), to keys and values, each (N, H, S, d)."""
        keys, values = self.memory(memory).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend from `x` to `keys` and `values`.

        Args:
            x: Queries before projection, (N, T, D).
            keys: (N, H, S, d).
            values: (N, H, S, d).
            mask: Broadcastable to (N, H, T, S): added to the logits when floating, True where attention may go
                when boolean.
            causal: Query t sees keys 0…t only; not together with `mask`.

        Returns:
            (N, T, D).
        """
        if mask is not None and mask.is_floating_point():
            mask = mask.to(keys.dtype)
        heads = F.scaled_dot_product_attention(self._split(self.query(x)), keys, values, mask, is_causal=causal)
        output: Tensor = self.output(heads.transpose(1, 2).flatten(2))
        return output

    def weights(self, x: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attention weights that `forward` applies, (N, H, T, S), float32; `mask` is additive."""
        queries = self._split(self.query(x))
        logits = (queries @ keys.transpose(-1, -2)).float() * queries.shape[-1] ** -0.5
        return torch.softmax(logits if mask is None else logits + mask, dim=-1)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, x.shape[-1] // self.heads).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Two linear layers with a GELU between them: (…, width) to (…, width).

    Args:
        width: Width of input and output.
        multiple: Hidden width as a multiple of `width`.
    """

    def __init__(self, width: int, multiple: int) -> None:
        super().__init__(nn.Linear(width, multiple * width), nn.GELU(), nn.Linear(multiple * width, width))


def initialise(module: nn.Module) -> None:
    """Give linear layers Xavier-uniform weights and zero biases, convolutions He-normal weights."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
