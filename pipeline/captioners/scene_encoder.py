"""The bi-temporal scene consistency encoder, section 3.2 of the paper, and learned tokens for data without scenes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.captioners.inputs import Memory
from pipeline.captioners.layers import Attention, FeedForward, GridPositions, initialise
from pipeline.captioners.settings import SceneEncoderSettings
from pipeline.errors import CheckpointError, SettingsError


class SceneEncoder(nn.Module):
    """Backbone features of both dates → scene embedding E_img and the maps of change and consistency.

    Weights are drawn from torch's global generator; seed it around the construction.

    Args:
        settings: Widths, blocks and norms.
        scene_shape: (C, h, w) of one date's features.
        channels: Channels C_e of E_img.

    Raises:
        SettingsError: Without projection, the heads do not divide the backbone's channels.
    """

    def __init__(self, settings: SceneEncoderSettings, scene_shape: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        features, height, width = scene_shape
        self.scene_shape = scene_shape
        inner = settings.width or features
        if inner % settings.heads or inner % 4:
            raise SettingsError(
                f"{inner} feature channels are not a multiple of {settings.heads} heads and of 4",
                where="scene.width: null",
                fix="set scene.width, or other scene.heads",
            )
        self.project = nn.Linear(features, inner) if settings.width else nn.Identity()
        self.positions = GridPositions(height, width, inner, learned=settings.positions == "learned")
        self.blocks = nn.ModuleList(SceneBlock(inner, settings) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(inner) if settings.norm == "pre" else nn.Identity()
        self.head = _head(3 * inner + 1, inner, channels, settings)
        initialise(self)

    def forward(self, scenes: Tensor) -> Memory:
        """Encode pairs.

        Args:
            scenes: Features of both dates, (B, 2, C, h, w), any floating type.

        Returns:
            Tokens (B, h·w, C_e) and the two maps (B, h, w); no condition.

        Raises:
            CheckpointError: The features are of another shape than the encoder was built for.
        """
        first, second = self.refine(scenes)
        change, consistency = compare(first, second)
        _, height, width = self.scene_shape
        fused = fuse(first, second, change, consistency).transpose(1, 2)
        grid = (len(scenes), height, width)
        tokens = self.head(fused.reshape(len(scenes), -1, height, width)).flatten(2).transpose(1, 2)
        return Memory(tokens=tokens, change=change.view(grid), consistency=consistency.view(grid))

    def refine(self, scenes: Tensor) -> tuple[Tensor, Tensor]:
        """Return F_1 and F_2 after N blocks, equations (1) to (3), each (B, h·w, D)."""
        if scenes.ndim != 5 or tuple(scenes.shape[1:]) != (2, *self.scene_shape):
            raise CheckpointError(
                f"the captioner takes scene features of shape (pairs, 2, {_numbers(self.scene_shape)}), "
                f"given ({_numbers(scenes.shape)})",
                where="scene features",
                fix="use the scenes of the backbone that the captioner was trained with, or train it on these",
            )
        # A half-precision cache meets weights of full precision here; under autocast the layer itself casts down.
        streams = scenes.flatten(3).transpose(2, 3).contiguous().to(self.positions.rows.dtype)
        streams = self.project(streams) + self.positions()
        for block in self.blocks:
            streams = block(streams)
        first, second = self.norm(streams).unbind(1)
        return first, second


class SceneBlock(nn.Module):
    """One attention block, equations (2) and (3): each date attends to itself, then to both.

    Both dates' queries meet the same keys [H_1; H_2], so (3) is one attention over the pair's 2·h·w tokens.

    Args:
        width: Width D of the streams.
        settings: Heads, norms, feed-forward and dropout.
    """

    def __init__(self, width: int, settings: SceneEncoderSettings) -> None:
        super().__init__()
        self.placement = settings.norm
        self.within = Attention(width, settings.heads)
        self.across = Attention(width, settings.heads)
        self.feedforward = FeedForward(width, settings.feedforward) if settings.feedforward else None
        branches = 3 if settings.feedforward else 2
        plain = settings.norm == "none"
        self.norms = nn.ModuleList(nn.Identity() if plain else nn.LayerNorm(width) for _ in range(branches))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, streams: Tensor) -> Tensor:
        """Refine both streams, (B, 2, h·w, D) to the same shape."""
        pairs = len(streams)
        dates = self._branch(0, self.within, streams.flatten(0, 1))
        both = self._branch(1, self.across, dates.view(pairs, -1, dates.shape[-1]))
        if self.feedforward is not None:
            both = self._branch(2, self.feedforward, both)
        return both.view(streams.shape)

    def _branch(self, index: int, branch: nn.Module, x: Tensor) -> Tensor:
        norm = self.norms[index]
        inner = norm(x) if self.placement == "pre" else x
        update = branch(inner, *branch.keys_values(inner)) if isinstance(branch, Attention) else branch(inner)
        x = x + self.dropout(update)
        return norm(x) if self.placement == "post" else x


def compare(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maps M_map and C_map of equation (4) ff., in float32 under autocast too.

    With unit vectors a, b: M = (1 − ⟨a, b⟩) / 2 = |a − b|² / 4. The right-hand form is exactly zero for equal
    features and keeps the digits of small changes, which 1 − cosine cancels.

    Args:
        first: F_1, (B, S, D).
        second: F_2, (B, S, D).

    Returns:
        M_map and C_map, each (B, S) float32 in [0, 1].
    """
    a, b = F.normalize(first.float(), dim=-1), F.normalize(second.float(), dim=-1)
    change = ((a - b).square().sum(dim=-1) / 4).clamp(max=1.0)
    return change, 1 - change


def fuse(first: Tensor, second: Tensor, change: Tensor, consistency: Tensor) -> Tensor:
    """Return G of equation (5), (B, S, 3D + 1), from F_1, F_2 (B, S, D) and the maps (B, S)."""
    M, C = change.to(first.dtype).unsqueeze(-1), consistency.to(first.dtype).unsqueeze(-1)
    return torch.cat([first * C, second * C, (first - second).abs() * M, M], dim=-1)


def _head(inputs: int, inner: int, channels: int, settings: SceneEncoderSettings) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(settings.head_layers):
        # The norm that follows has a bias of its own.
        layers.append(nn.Conv2d(inner if index else inputs, inner, 3, padding=1, bias=False))
        layers.append(nn.BatchNorm2d(inner) if settings.head_norm == "batch" else nn.GroupNorm(4, inner))
        layers.append(nn.ReLU())
    layers.append(nn.Conv2d(inner, channels, 1))
    return nn.Sequential(*layers)


def _numbers(shape: tuple[int, ...] | torch.Size) -> str:
    return ", ".join(map(str, shape))


class LearnedScene(nn.Module):
    """Learned tokens, the same for every pair, in the place of E_img, with a change map of zeros.

    They are the queries by which a fusion of tokens attends to the regions, and the memory of a decoder whose fusion is
    one vector. They are drawn from torch's global generator; seed it around the construction.

    Args:
        settings: Number of tokens n.
        channels: Channels C_e of the tokens.
    """

    def __init__(self, settings: SceneEncoderSettings, channels: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(settings.learned_tokens, channels))

    def forward(self, pairs: int) -> Memory:
        """Return the tokens for each of B pairs, in a grid of 1 × n without change."""
        count = len(self.tokens)
        change = torch.zeros(pairs, 1, count, device=self.tokens.device)
        return Memory(self.tokens.expand(pairs, -1, -1), change=change, consistency=1 - change)
