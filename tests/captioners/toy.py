"""A whole captioner of another kind in one file: settings, encoder, decoder, and the steps that a search asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.captioners.base import Captioner
from pipeline.captioners.registry import CAPTIONERS
from pipeline.captioners.settings import CaptionerSettings


class ToySettings(CaptionerSettings):
    """The toy captioner."""

    captioner: ClassVar[str] = "tests.captioners.toy:ToyCaptioner"

    kind: Literal["toy"] = Field("toy", description="which captioner")
    width: int = Field(16, ge=1, description="width of memory, words and decoder")

    def input_names(self) -> tuple[str, ...]:
        return ("scenes", "maps")


@dataclass(frozen=True)
class ToyMemory:
    """One vector for each of B pairs, (B, width)."""

    vectors: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def device(self) -> torch.device:
        return self.vectors.device


@dataclass
class ToyState:
    """What the GRU keeps of each beam, (B, K, width)."""

    hidden: Tensor


class ToyCaptioner(Captioner[ToySettings, ToyMemory, ToyState]):
    """Mean scene features and class shares of both dates → one vector, with which a GRU starts."""

    def __init__(self, settings: ToySettings, vocabulary_size: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(settings, vocabulary_size, shapes)
        self.classes = shapes["maps"][0]
        self.join = nn.Linear(2 * (shapes["scenes"][0] + self.classes), settings.width)
        self.words = nn.Embedding(vocabulary_size, settings.width)
        self.gru = nn.GRU(settings.width, settings.width, batch_first=True)
        self.logits = nn.Linear(settings.width, vocabulary_size)

    def encode(self, inputs: Mapping[str, Any]) -> ToyMemory:
        features = inputs["scenes"].float().mean((3, 4))  # (B, 2, C)
        shares = F.one_hot(inputs["maps"].long(), self.classes).float().mean((2, 3))  # (B, 2, classes)
        return ToyMemory(torch.tanh(self.join(torch.cat([features, shares], dim=2).flatten(1))))

    def decode(self, memory: ToyMemory, tokens: Tensor, rows: Tensor) -> Tensor:
        outputs, _ = self.gru(self.words(tokens), memory.vectors[rows].unsqueeze(0))
        logits: Tensor = self.logits(outputs)
        return logits

    def start(self, memory: ToyMemory, beams: int, length: int) -> ToyState:
        return ToyState(memory.vectors.unsqueeze(1).repeat(1, beams, 1))

    def step(self, state: ToyState, tokens: Tensor, position: int) -> Tensor:
        words = self.words(tokens.flatten().unsqueeze(1))
        outputs, hidden = self.gru(words, state.hidden.flatten(0, 1).unsqueeze(0))
        state.hidden = hidden.view_as(state.hidden)
        logits: Tensor = self.logits(outputs).view(*tokens.shape, -1)
        return logits

    def reorder(self, state: ToyState, parents: Tensor) -> None:
        state.hidden = state.hidden.gather(1, parents.unsqueeze(-1).expand_as(state.hidden))

    def keep(self, state: ToyState, pairs: Tensor) -> None:
        state.hidden = state.hidden[pairs]


@contextmanager
def registered() -> Iterator[None]:
    """Let settings name the toy captioner while the block runs."""
    CAPTIONERS.register("toy", "tests.captioners.toy:ToySettings", "for tests")
    try:
        yield
    finally:
        CAPTIONERS.unregister("toy")
