"""The caption decoder, section 3.5 of the paper: words from a scene, its maps of change, and an optional condition.

`DecoderState` is its cache between two words of a search: the keys and values of images and of earlier words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.captioners.inputs import Memory
from pipeline.captioners.layers import Attention, FeedForward, initialise, sinusoid
from pipeline.captioners.settings import DecoderSettings


@dataclass(frozen=True)
class CrossContext:
    """Keys and values of the scene for one decoder layer.

    Attributes:
        keys: (N, H, S, d).
        values: (N, H, S, d).
        bias: The spatial bias b of equation (18), (N, 1, 1, S) float32, −∞ at tokens that pad; None without.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None

    def select(self, rows: Tensor) -> CrossContext:
        """Return the context of rows `rows`, (M,) integers."""
        return CrossContext(
            keys=self.keys[rows], values=self.values[rows], bias=None if self.bias is None else self.bias[rows]
        )


class DecoderState:
    """Preallocated cache of a beam search over B pairs of K beams each.

    The beams of one pair are queries of one attention: they share the pair's image keys without a copy, and the
    keys of earlier words are in one buffer per pair, slot `t·K + k` holding word t of the beam that was k-th then.
    A small table of ancestors says which slots each beam descends from, and only that table is permuted when beams are
    reordered; keys and values never move.

    Args:
        cross: The scene for each layer, B rows.
        condition: r as an addend, (B, 1, D), or None.
        positions: Embeddings of the places of all words that may be generated, (T, D).
        beams: K.
    """

    def __init__(self, cross: list[CrossContext], condition: Tensor | None, positions: Tensor, beams: int) -> None:
        length = len(positions)
        self.cross = cross
        self.positions = positions
        self.condition = condition
        self.beams = beams
        pairs, heads, _, channels = cross[0].keys.shape
        shape = (pairs, heads, beams * length, channels)
        device, dtype = cross[0].keys.device, cross[0].keys.dtype
        # Zeros, not garbage: a masked slot still meets a zero weight, and 0 · NaN is NaN.
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in cross]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in cross]
        self.ancestors = torch.zeros((pairs, beams, length), device=device, dtype=torch.long)
        self._slots = torch.arange(beams, device=device)

    def begin(self, position: int) -> Tensor | None:
        """Open the slots of word `position`; return the mask of beams on slots, (B, 1, K, (position + 1)·K) boolean.

        None stands for a mask that is True everywhere, as with one beam.
        """
        if self.beams == 1:
            return None
        self.ancestors[:, :, position] = self._slots
        seen: Tensor = self.ancestors[:, :, : position + 1, None] == self._slots
        return seen.flatten(2).unsqueeze(1)

    def append(self, layer: int, position: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's keys and values of the beams' newest words, (B, H, K, d); return all until now."""
        start, stop = position * self.beams, (position + 1) * self.beams
        self.keys[layer][:, :, start:stop] = keys
        self.values[layer][:, :, start:stop] = values
        return self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]

    def reorder(self, parents: Tensor) -> None:
        """Let beam k of each pair continue what beam `parents[b, k]` has written; `parents` is (B, K)."""
        if self.beams > 1:
            self.ancestors = self.ancestors.gather(1, parents.unsqueeze(-1).expand_as(self.ancestors))

    def keep(self, pairs: Tensor) -> None:
        """Keep only the pairs at indices `pairs`, (B',)."""
        self.cross = [context.select(pairs) for context in self.cross]
        self.condition = None if self.condition is None else self.condition[pairs]
        self.keys = [keys[pairs] for keys in self.keys]
        self.values = [values[pairs] for values in self.values]
        self.ancestors = self.ancestors[pairs]


class Decoder(nn.Module):
    """Transformer decoder with a spatial bias on its cross-attention, equations (18) to (22).

    Weights are drawn from torch's global generator; seed it around the construction.

    Args:
        settings: Widths, layers, norms and the spatial bias.
        vocabulary_size: Number of words V, specials counted.
        channels: Channels C_e of the scene tokens.
    """

    def __init__(self, settings: DecoderSettings, vocabulary_size: int, channels: int) -> None:
        super().__init__()
        width = settings.width
        self.width = width
        self.layers = nn.ModuleList(DecoderLayer(settings, channels) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width) if settings.norm == "pre" else nn.Identity()
        self.words = nn.Embedding(vocabulary_size, width)
        self.logits = nn.Linear(width, vocabulary_size)
        self.dropout = nn.Dropout(settings.dropout)
        self.alpha: nn.Parameter | None = None
        self.beta: nn.Parameter | None = None
        if settings.spatial_bias:
            scopes = settings.layers if settings.bias_scope == "layer" else 1
            self.alpha = nn.Parameter(torch.full((scopes,), settings.alpha))
            self.beta = nn.Parameter(torch.full((scopes,), settings.beta))
        initialise(self)
        # Times √D on the way in this gives unit variance, that of the positions; as a tied output, unit logits.
        nn.init.normal_(self.words.weight, std=width**-0.5)
        if settings.tied:
            self.logits.weight = self.words.weight

    def forward(self, memory: Memory, tokens: Tensor, rows: Tensor) -> Tensor:
        """Score every next word of given captions (teacher forcing).

        Args:
            memory: Encoded pairs, B of them.
            tokens: Word ids from the start token on, (N, T).
            rows: Which pair of `memory` each caption belongs to, (N,).

        Returns:
            Logits (N, T, V); those at t depend on the tokens 0…t.
        """
        return self._run(memory, tokens, rows, None)

    def cross_attention(self, memory: Memory, tokens: Tensor, rows: Tensor) -> Tensor:
        """Return the cross-attention weights of given captions, (N, T, L, H, S) float32; arguments as in `forward`.

        Row t holds the weights with which the word after token t was chosen.
        """
        record: list[Tensor] = []
        self._run(memory, tokens, rows, record)
        return torch.stack(record, dim=1).permute(0, 3, 1, 2, 4)

    def start(self, memory: Memory, beams: int, length: int) -> DecoderState:
        """Begin a search of `beams` beams per pair and at most `length` words.

        Raises:
            RuntimeError: The decoder is in training mode, where dropout would make the words random.
        """
        if self.training:
            raise RuntimeError("call eval() before generating: dropout is on")
        positions = sinusoid(length, self.width, memory.tokens.device)
        return DecoderState(self._cross(memory), _addend(memory.condition), positions, beams)

    def step(self, state: DecoderState, tokens: Tensor, position: int) -> Tensor:
        """Return the logits (B, K, V) after the beams' newest tokens (B, K), which stand at `position`."""
        x = self._embed(tokens, state.positions[position])
        mask = state.begin(position)
        for index, layer in enumerate(self._layers()):
            keys, values = state.append(index, position, *layer.own_keys_values(x))
            x = layer(x, keys, values, state.cross[index], state.condition, mask=mask)
        return self._project(x)

    def _layers(self) -> list[DecoderLayer]:
        return cast("list[DecoderLayer]", list(self.layers))

    def _run(self, memory: Memory, tokens: Tensor, rows: Tensor, record: list[Tensor] | None) -> Tensor:
        x = self._embed(tokens, sinusoid(tokens.shape[1], self.width, tokens.device))
        condition = _addend(None if memory.condition is None else memory.condition[rows])
        for layer, cross in zip(self._layers(), self._cross(memory), strict=True):
            keys, values = layer.own_keys_values(x)
            x = layer(x, keys, values, cross.select(rows), condition, causal=True, record=record)
        return self._project(x)

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(self.words(tokens) * math.sqrt(self.width) + positions)
        return embedded

    def _project(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.norm(x))
        return logits

    def _cross(self, memory: Memory) -> list[CrossContext]:
        contexts: list[CrossContext] = []
        for index, layer in enumerate(self._layers()):
            keys, values = layer.cross_attention.keys_values(memory.tokens)
            contexts.append(CrossContext(keys, values, _hide(memory, self._bias(memory, index))))
        return contexts

    def _bias(self, memory: Memory, layer: int) -> Tensor | None:
        if self.alpha is None or self.beta is None:
            return None
        scope = layer if len(self.alpha) > 1 else 0
        bias = self.alpha[scope] * memory.change + self.beta[scope] * memory.consistency
        return bias.flatten(1)[:, None, None]


class DecoderLayer(nn.Module):
    """One decoder layer, equations (19) to (21).

    The paper writes Ỹ = SA(Y), Z = CA(Ỹ), Y' = FFN(LN(Ỹ + Z + 1 rᵀ)); `norm: none` is just that. `post` adds the
    residuals and norms of the original Transformer, so that Ỹ = LN(Y + SA(Y)), U = LN(Ỹ + Z + 1 rᵀ),
    Y' = LN(U + FFN(U)); `pre` puts the norms inside: Ỹ = Y + SA(LN Y), Z = CA(LN Ỹ), U = Ỹ + Z + 1 rᵀ,
    Y' = U + FFN(LN U).

    Args:
        settings: Width, heads, norm and dropout.
        channels: Channels C_e of the scene tokens.
    """

    def __init__(self, settings: DecoderSettings, channels: int) -> None:
        super().__init__()
        width = settings.width
        self.placement = settings.norm
        self.self_attention = Attention(width, settings.heads)
        self.cross_attention = Attention(width, settings.heads, channels)
        self.feedforward = FeedForward(width, settings.feedforward)
        plain = settings.norm == "none"
        self.self_norm = nn.Identity() if plain else nn.LayerNorm(width)
        self.cross_norm = nn.LayerNorm(width) if settings.norm == "pre" else nn.Identity()
        self.fused_norm = nn.LayerNorm(width)
        self.output_norm = nn.LayerNorm(width) if settings.norm == "post" else nn.Identity()
        self.dropout = nn.Dropout(settings.dropout)

    def own_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of the words x (N, T, D) for the layer's self-attention, each (N, H, T, d)."""
        return self.self_attention.keys_values(self._before(x))

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        cross: CrossContext,
        condition: Tensor | None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """Run the layer.

        Args:
            x: Words, (N, T, D): a caption's words, or the newest words of a pair's beams.
            keys: Self-attention keys of all words that may be attended to, (N, H, S', d).
            values: Their values, (N, H, S', d).
            cross: The scene, N rows.
            condition: r, (N, 1, D), or None.
            mask: Which keys each word attends to, boolean, broadcastable to (N, H, T, S').
            causal: Word t attends to keys 0…t.
            record: Takes the cross-attention weights (N, H, T, S) when given.

        Returns:
            (N, T, D).
        """
        attended: Tensor = self.dropout(self.self_attention(self._before(x), keys, values, mask=mask, causal=causal))
        if self.placement == "none":
            words = attended
        elif self.placement == "pre":
            words = x + attended
        else:
            words = self.self_norm(x + attended)
        query = self.cross_norm(words)
        if record is not None:
            record.append(self.cross_attention.weights(query, cross.keys, cross.bias))
        fused = words + self.dropout(self.cross_attention(query, cross.keys, cross.values, mask=cross.bias))
        if condition is not None:
            fused = fused + condition
        normed = self.fused_norm(fused)
        update: Tensor = self.dropout(self.feedforward(normed))
        if self.placement == "none":
            return update
        output: Tensor = self.output_norm((fused if self.placement == "pre" else normed) + update)
        return output

    def _before(self, x: Tensor) -> Tensor:
        normed: Tensor = self.self_norm(x) if self.placement == "pre" else x
        return normed


def _hide(memory: Memory, bias: Tensor | None) -> Tensor | None:
    """Extend the bias of the grid's cells (B, 1, 1, h·w) to all tokens (B, 1, 1, S): −∞ where they pad, else 0."""
    tokens = memory.tokens.shape[1]
    if bias is not None:
        bias = F.pad(bias, (0, tokens - bias.shape[-1]))
    if memory.mask is None:
        return bias
    if bias is None:
        bias = memory.change.new_zeros(1, 1, 1, tokens)
    return bias.masked_fill(~memory.mask[:, None, None], -torch.inf)


def _addend(condition: Tensor | None) -> Tensor | None:
    return None if condition is None else condition.unsqueeze(1)
