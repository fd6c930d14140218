"""Attention between a few tokens of a prompt and many of an image, as SAM's mask decoder has it.

Notation: B prompts, T tokens of a prompt, N tokens of an image, C channels, H heads of d channels, I = H·d.
"""

from __future__ import annotations

import math

import torch
from segment_anything.modeling.transformer import Attention
from torch import Tensor
from torch.nn import functional as F


def self_attention(module: Attention, asking: Tensor, values: Tensor) -> Tensor:
    """Attend among the tokens (B, T, C) of each prompt, by the weights of segment_anything's `module`."""
    batch, count, _ = values.shape

    def heads(x: Tensor) -> Tensor:
        return x.view(batch, count, module.num_heads, -1).transpose(1, 2)

    q, k, v = heads(module.q_proj(asking)), heads(module.k_proj(asking)), heads(module.v_proj(values))
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, -1)
    result: Tensor = module.out_proj(out)
    return result


class CrossAttention:
    """Attention between tokens and image, with the image's projections moved to the tokens' side.

    What a head does to a token before the product with image tokens is two projections, one after the other. They are
    multiplied here, once: together the heads are one linear layer from C to H·C channels.

    Args:
        module: segment_anything's Attention, whose weights are used; gradients reach them.
        dtype: Type of the products of weights; None for theirs.
    """

    def __init__(self, module: Attention, dtype: torch.dtype | None = None) -> None:
        self._module = module
        self._heads: int = module.num_heads
        width: int = module.internal_dim // self._heads
        self._scale = 1 / math.sqrt(width)
        layers = (module.q_proj, module.k_proj, module.v_proj)
        # Of each head: weights (H, d, C), biases (H, d, 1).
        q, k, v = (layer.weight.unflatten(0, (self._heads, width)) for layer in layers)
        of_q, of_k, of_v = (layer.bias.view(self._heads, width, 1) for layer in layers)
        out = module.out_proj.weight.unflatten(1, (self._heads, width)).transpose(0, 1)
        share = module.out_proj.bias[:, None] / self._heads
        # A key's bias adds the same to all scores of a query, which the softmax does not see; a query's does not.
        self._asking = self._linear(k.mT @ q * self._scale, k.mT @ of_q * self._scale, dtype)
        self._asked = self._linear(q.mT @ k * self._scale, q.mT @ of_k * self._scale, dtype)
        self._constant = self._linear(of_q.mT @ k * self._scale, of_q.mT @ of_k * self._scale, dtype)
        # Attention adds up to one in each head, so that the bias arrives once if each head has its share.
        self._answers = self._linear(out @ v, out @ of_v + share, dtype)
        weight, bias = self._answers
        self._joined = (
            weight.unflatten(0, (self._heads, -1)).transpose(0, 1).flatten(1),
            bias.view(self._heads, -1).sum(0),
        )
        one = torch.eye(self._heads, dtype=dtype or q.dtype, device=q.device)
        self._of_head = one.repeat_interleave(width, dim=1)

    def from_shared(self, asking: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Let the tokens (V, P·T, C) of all P prompts of an image ask its image tokens (V, N, C): (V, P·T, C)."""
        module = self._module

        def heads(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], self._heads, -1).transpose(1, 2)

        q, k, v = heads(module.q_proj(asking)), heads(module.k_proj(keys)), heads(module.v_proj(values))
        found: Tensor = module.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return found

    def from_tokens(self, asking: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Let tokens (B, T, C) ask the image tokens (B, N, C) of their own prompt: (B, T, C)."""
        batch, count, width = asking.shape
        rows = F.linear(asking, *self._asking).view(batch, -1, width)
        attention = (rows @ keys.transpose(1, 2)).softmax(dim=-1)
        return F.linear((attention @ values).view(batch, count, -1), *self._joined)

    def into_shared(self, keys: Tensor, asked: Tensor, answers: Tensor, values: Tensor) -> Tensor:
        """Let the image tokens (V, N, C) ask the tokens (V·P, T, C) of each prompt; add to `values` (V, N, C).

        Returns:
            (V·P, N, C): the image tokens of each prompt.
        """
        module = self._module
        images, n, _ = values.shape
        # Taken once for all prompts, the image's projection is worth it: each row is zero outside of its head.
        rows = ((module.k_proj(asked) * self._scale).unsqueeze(-2) * self._of_head).view(
            images, -1, module.internal_dim
        )
        scores = rows @ module.q_proj(keys).transpose(1, 2)
        own = self._answer(scores.view(len(asked), -1, n), answers)
        own.unflatten(0, (images, -1)).add_(values[:, None])
        return own

    def into_own(self, keys: Tensor, asked: Tensor, answers: Tensor, values: Tensor) -> Tensor:
        """Let the image tokens (B, N, C) of each prompt ask its tokens (B, T, C); add to `values` (B, N, C)."""
        batch, _, width = asked.shape
        scores = F.linear(asked, *self._asked).view(batch, -1, width) @ keys.transpose(1, 2)
        scores += F.linear(asked, *self._constant).view(batch, -1, 1)
        return self._answer(scores, answers).add_(values)

    def _answer(self, scores: Tensor, answers: Tensor) -> Tensor:
        """Return (B, N, C): what image tokens get from tokens (B, T, C), by scores (B, T·H, N)."""
        batch, count, width = answers.shape
        attention = scores.view(batch, count, self._heads, -1).softmax(dim=1).flatten(1, 2)
        return attention.transpose(1, 2) @ F.linear(answers, *self._answers).view(batch, -1, width)

    @staticmethod
    def _linear(weight: Tensor, bias: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """Return weights (H, X, C) and biases (H, X, 1) of heads as those of one linear layer, (H·X, C) and (H·X)."""
        return weight.flatten(0, 1).to(dtype or weight.dtype), bias.flatten().to(dtype or bias.dtype)
